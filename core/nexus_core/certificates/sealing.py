"""Secrets in Snapshots: sealed by whoever translates, opened by whoever serves, with one key that both are given.

AES-256-GCM with a synthetic nonce: an HMAC of what is sealed and of what it is about. Equal secrets give equal text, so that a
Snapshot changes only when something in it does; two different ones never share a nonce, short of a collision of HMAC-SHA256
cut to 96 bits. What a text is about is bound to it: the key of one certificate cannot be put in another's place.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nexus_core.certificates.keys import KEY_BYTES, process_key

_PREFIX = "v1:"
_NONCE_BYTES = 12


class SealError(Exception):
    """A key or a sealed text cannot be used. The text says why and how to fix it; never what was in it."""


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes. Raises SealError for any other number."""
        if len(key) != KEY_BYTES:
            raise SealError(f"The seal key has {len(key)} bytes; it needs {KEY_BYTES} random ones, given as base64.")
        # Two keys of one: what is used for two purposes is used for neither.
        self._cipher = AESGCM(hmac.digest(key, b"nexus seal: cipher", hashlib.sha256))
        self._nonces = hmac.digest(key, b"nexus seal: nonce", hashlib.sha256)

    def seal(self, clear: bytes, about: str) -> str:
        """Return the sealed text. about: what it belongs to, such as a certificate's id; needed to open it."""
        bound = about.encode()
        said = len(bound).to_bytes(4, "big") + bound + clear
        nonce = hmac.digest(self._nonces, said, hashlib.sha256)[:_NONCE_BYTES]
        return _PREFIX + base64.b64encode(nonce + self._cipher.encrypt(nonce, clear, bound)).decode("ascii")

    def unseal(self, text: str, about: str) -> bytes:
        """Return what was sealed. Raises SealError when the text was sealed with another key, is about something else, or was changed."""
        try:
            if not text.startswith(_PREFIX):
                raise SealError(f"The secret of {about} is sealed in a way this release does not know. Upgrade it.")
            raw = base64.b64decode(text[len(_PREFIX) :], validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], about.encode())
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise SealError(
                f"The secret of {about} cannot be opened: operator and gateway have different seal keys, or it was changed. "
                "Give both the same NEXUS_SEAL_KEY."
            ) from error


@functools.cache
def process_sealer() -> Sealer:
    """Return a sealer with that key: for worlds that are translated and served, or only looked at, by one process."""
    return Sealer(process_key())


def parse_key(text: str) -> bytes:
    """Return the key that `NEXUS_SEAL_KEY` holds, base64 of 32 bytes. Raises SealError."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SealError("The seal key is no base64. Make one with `openssl rand -base64 32`.") from error
    if len(key) != KEY_BYTES:
        raise SealError(f"The seal key has {len(key)} bytes, not {KEY_BYTES}. Make one with `openssl rand -base64 32`.")
    return key
