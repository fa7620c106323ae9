"""Private keys in Snapshots: sealed by whoever translates, opened by the Gateways that show the certificate and by nobody else.

The installation has one key, and each Gateway one that comes from it and leads neither back nor to another's. A private key is
sealed once, with a key of its own, and that key for each Gateway that shows the certificate: what many Gateways share grows by a
hundred bytes for each of them.

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
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nexus_core.certificates.keys import KEY_BYTES, process_key
from nexus_core.snapshot.listeners import Certificate, Holder

MAX_REMEMBERED = 4096
"""Certificates whose sealed texts are kept, and Gateways whose keys are, at about 3 kB each: those of a large cluster."""

_PREFIX = "v1:"
_NONCE_BYTES = 12


class SealError(Exception):
    """A key or a sealed text cannot be used. The text says why and how to fix it; never what was in it."""


class Seal:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes. Raises SealError for any other number."""
        _check(key)
        # Two keys of one: what is used for two purposes is used for neither.
        self._cipher = AESGCM(_derive(key, "nexus seal: cipher"))
        self._nonces = _derive(key, "nexus seal: nonce")

    def seal(self, clear: bytes, about: str) -> str:
        """Return the sealed text. about: what it belongs to, such as a certificate's id; needed to open it."""
        nonce = hmac.digest(self._nonces, _said(clear, about), hashlib.sha256)[:_NONCE_BYTES]
        return _PREFIX + base64.b64encode(nonce + self._cipher.encrypt(nonce, clear, about.encode())).decode("ascii")

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


class Sealer:
    """Seals private keys for Gateways, and opens what was sealed for any of them: with the installation's key."""

    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes. Raises SealError for any other number."""
        _check(key)
        self._contents = _derive(key, "nexus seal: contents")
        self._of = functools.lru_cache(MAX_REMEMBERED)(lambda gateway: Seal(gateway_key(key, gateway)))
        self._sealed: dict[bytes, tuple[str, tuple[Holder, ...]]] = {}

    def seal(self, clear: bytes, about: str, gateways: Iterable[str]) -> tuple[str, tuple[Holder, ...]]:
        """Return the sealed text and who can open it. about: a certificate's id. gateways: `<namespace>/<name>` each, in any order."""
        # Of what is sealed: equal secrets give equal text, and a Gateway that held the last one cannot open the next.
        content = hmac.digest(self._contents, _said(clear, about), hashlib.sha256)
        # Every translation of the world asks for all certificates. By a digest: what opens one is not kept.
        mark = hashlib.sha256(content).digest()
        text, holders = self._sealed.pop(mark, ("", ()))
        asked = sorted(set(gateways))
        if [holder.gateway for holder in holders] != asked:
            known = {holder.gateway: holder for holder in holders}
            holders = tuple(known.get(name) or Holder(name, self._of(name).seal(content, about)) for name in asked)
        text = text or Seal(content).seal(clear, about)
        self._sealed[mark] = text, holders
        if len(self._sealed) > MAX_REMEMBERED:
            del self._sealed[next(iter(self._sealed))]  # asked for longest ago: dicts keep their order
        return text, holders

    def unseal(self, certificate: Certificate) -> bytes:
        """Return a certificate's private key, in PEM. Raises SealError."""
        return self.unseal_text(certificate.key, certificate.holders, certificate.id)

    def unseal_text(self, text: str, holders: Iterable[Holder], about: str) -> bytes:
        """Return what was sealed about something. Raises SealError."""
        # Any of them will do: all hold one and the same key.
        for holder in holders:
            return Seal(self._of(holder.gateway).unseal(holder.key, about)).unseal(text, about)
        raise SealError(f"The secret of {about} is sealed for no Gateway. The operator publishes it anew.")


class Opener:
    """Opens private keys that were sealed for one Gateway."""

    def __init__(self, key: bytes, gateway: str) -> None:
        """key: the Gateway's own, or the installation's, as whoever translates has it. gateway: `<namespace>/<name>`.

        Raises SealError for any other number of bytes than 32.
        """
        self._gateway = gateway
        self._own, self._derived = Seal(key), Seal(gateway_key(key, gateway))

    def unseal(self, certificate: Certificate) -> bytes:
        """Return a certificate's private key, in PEM. Raises SealError."""
        return self.unseal_text(certificate.key, certificate.holders, certificate.id)

    def unseal_text(self, text: str, holders: Iterable[Holder], about: str) -> bytes:
        """Return what was sealed about something. Raises SealError."""
        key = next((holder.key for holder in holders if holder.gateway == self._gateway), None)
        if key is None:
            raise SealError(
                f"The secret of {about} is not sealed for Gateway {self._gateway}. Set NEXUS_GATEWAY to the Gateway that uses it."
            )
        try:
            content = self._own.unseal(key, about)
        except SealError:
            content = self._derived.unseal(key, about)
        return Seal(content).unseal(text, about)


def gateway_key(key: bytes, gateway: str) -> bytes:
    """Return the seal key of one Gateway, 32 bytes. key: the installation's. gateway: `<namespace>/<name>`."""
    return _derive(key, f"nexus seal key of {gateway}")


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


def _check(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise SealError(f"The seal key has {len(key)} bytes; it needs {KEY_BYTES} random ones, given as base64.")


def _derive(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, purpose.encode(), hashlib.sha256)


def _said(clear: bytes, about: str) -> bytes:
    bound = about.encode()
    return len(bound).to_bytes(4, "big") + bound + clear
