"""Hashes of passwords, in the PHC string format, and whether a password is the one. Pure, and slow on purpose.

    $scrypt$ln=15,r=8,p=1$<salt>$<hash>              RFC 7914; ln is the logarithm of N
    $pbkdf2-sha256$i=600000$<salt>$<hash>            RFC 8018

Salt and hash are base64 without padding. Source: https://github.com/P-H-C/phc-string-format
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Literal

_BASE64 = r"([A-Za-z0-9+/]{%s})"
_SCRYPT = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9])\$" + _BASE64 % "11,86" + r"\$" + _BASE64 % "22,86"
)
_PBKDF2 = re.compile(r"\$pbkdf2-sha256\$i=([0-9]{1,7})\$" + _BASE64 % "11,86" + r"\$" + _BASE64 % "22,86")


class BadHash(ValueError):
    """The text is no hash that can be used. It says why, as what follows "The hash …"."""


@dataclass(frozen=True, slots=True)
class Hash:
    """One password's hash. cost: `(ln, r, p)` of scrypt, `(iterations, 0, 0)` of PBKDF2."""

    kind: Literal["scrypt", "pbkdf2-sha256"]
    cost: tuple[int, int, int]
    salt: bytes
    digest: bytes

    def is_of(self, password: bytes) -> bool:
        """Return whether this is the password's hash. Takes tens of milliseconds, during which other threads run."""
        if self.kind == "scrypt":
            ln, r, p = self.cost
            n = 1 << ln
            found = hashlib.scrypt(
                password,
                salt=self.salt,
                n=n,
                r=r,
                p=p,
                maxmem=128 * r * (n + p + 2) + (1 << 20),
                dklen=len(self.digest),
            )
        else:
            found = hashlib.pbkdf2_hmac("sha256", password, self.salt, self.cost[0], len(self.digest))
        return hmac.compare_digest(found, self.digest)

    def like(self, salt: bytes) -> Hash:
        """Return a hash that costs the same, and is of no password anybody has."""
        return Hash(self.kind, self.cost, salt[: len(self.salt)].ljust(len(self.salt), b"\0"), bytes(len(self.digest)))


def parse(text: str) -> Hash:
    """Return the hash that a text is. Raises BadHash."""
    match = _SCRYPT.fullmatch(text)
    if match is not None:
        ln, r, p = int(match[1]), int(match[2]), int(match[3])
        if not (14 <= ln <= 17 and 8 <= r <= 16 and 1 <= p <= 5) or r << ln > 8 << 17:
            raise BadHash(
                "costs too little or too much: ln is 14 to 17, r 8 to 16, p 1 to 5, and memory at most 128 MiB"
            )
        return Hash("scrypt", (ln, r, p), _decode(match[4]), _decode(match[5]))
    match = _PBKDF2.fullmatch(text)
    if match is not None:
        if not 100_000 <= int(match[1]) <= 2_000_000:
            raise BadHash("costs too little or too much: i is 100000 to 2000000")
        return Hash("pbkdf2-sha256", (int(match[1]), 0, 0), _decode(match[2]), _decode(match[3]))
    kind = "" if text.startswith("$") else " Passwords themselves are never taken."
    raise BadHash(
        "is neither $scrypt$ln=…,r=…,p=…$salt$hash nor $pbkdf2-sha256$i=…$salt$hash, in base64 without padding." + kind
    )


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise BadHash(f"has a part that is no base64: {error}") from error
