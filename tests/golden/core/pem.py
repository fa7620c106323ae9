"""Certificates and keys for inputs, base64 as in a Secret's `data`: `<name>.crt`, `<name>.key`, and some that are wrong.

Keys come from their names, so that two inputs that say the same mean the same; signatures differ from run to run, and no output
shows them.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from nexus_core.certificates.sealing import Sealer
from nexus_core.snapshot import Certificate

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@functools.cache
def content(name: str) -> str:
    """Return what stands for a name: `shop.crt`, `shop.key`; `short.*` has too short a key; `locked.key` is encrypted;
    `words.*` is no PEM; `two.crt` holds two certificates."""
    stem, _, kind = name.rpartition(".")
    if stem == "words":
        return _encoded(b"Hello world\n")
    key = _key(stem)
    if kind == "key":
        lock = serialization.BestAvailableEncryption(b"x") if stem == "locked" else serialization.NoEncryption()
        return _encoded(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    names = ("one", "other") if stem == "two" else (stem,)
    return _encoded(b"".join(_certificate(each, _key(each)) for each in names))


def told(sealer: Sealer, certificate: Certificate) -> str:
    """Return whose key a certificate's sealed key is: the name that `content` gives it."""
    clear = sealer.unseal(certificate).decode()
    for name in ("shop", "other", "old", "new", "one"):
        if base64.b64decode(content(f"{name}.key")).decode().strip() == clear.strip():
            return f"sealed {name}.key"
    return "sealed"


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


@functools.cache
def _key(name: str) -> Key:
    if name == "short":
        return rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()[:31], "big"), ec.SECP256R1())


def _certificate(name: str, key: Key) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
