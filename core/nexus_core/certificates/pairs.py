"""Certificates with their private keys, as Secrets of type `kubernetes.io/tls` hold them: which can be served, and why others cannot.

What is refused here is what OpenSSL refuses at its usual security level: found out where it can be told to the author of the Secret,
rather than where a listener would fail to open. Knows nothing of trust, names or dates.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from nexus_core.certificates import private

MAX_BYTES = 1_048_576
"""What a Secret holds at most."""
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
"""A handshake with one of 8192 bits takes a gateway a few hundredths of a second of CPU, eight times that of 4096; with more, a
gateway could be brought to a standstill by whoever connects.
"""
MAX_REMEMBERED = 4096
"""Verdicts kept: those of every certificate of a large cluster, at about 4 kB each."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The verdict on a chain and its key. chain: PEM, the server's own first; empty when there is a fault.
    fault: what is wrong, as the end of a sentence; empty when nothing is. The key is not in it: verdicts are remembered.
    """

    chain: str = ""
    fault: str = ""


_remembered: OrderedDict[bytes, Pair] = OrderedDict()


def read_pair(chain: bytes, key: bytes) -> Pair:
    """Return the verdict on what a Secret has under `tls.crt` and `tls.key`.

    Remembered by a digest of both: every translation of the world asks for all of them, and reading one takes a millisecond.
    """
    digest = hashlib.sha256(len(chain).to_bytes(8, "big") + chain + key).digest()
    found = _remembered.get(digest)
    if found is None:
        found = _read(chain, key)
        while len(_remembered) >= MAX_REMEMBERED:
            _remembered.popitem(last=False)
        _remembered[digest] = found
    else:
        _remembered.move_to_end(digest)
    return found


def _read(chain: bytes, key: bytes) -> Pair:
    for name, value in (("tls.crt", chain), ("tls.key", key)):
        if not value.strip():
            return Pair(fault=f"has an empty {name}")
        if len(value) > MAX_BYTES:
            return Pair(fault=f"has a {name} of more than {MAX_BYTES} bytes")
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except (ValueError, UnsupportedAlgorithm):
        return Pair(fault="has a tls.crt that is no certificate in PEM")
    try:
        public: object = certificates[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        return Pair(fault="has a tls.crt with a public key that cannot be read")
    if weakness := _weakness(public) or _weak_signature(certificates[0]):
        return Pair(fault=weakness)
    try:
        loaded = private.load(key)
    except TypeError:
        return Pair(fault="has a tls.key that is encrypted, and nobody to ask for its password")
    except (ValueError, UnsupportedAlgorithm):
        return Pair(fault="has a tls.key that is no private key in PEM")
    try:
        matches = _spki(loaded.public_key()) == _spki(public)
    except (ValueError, UnsupportedAlgorithm, AttributeError):
        return Pair(fault="has a tls.crt with a public key that cannot be read")
    if not matches:
        return Pair(fault="has a tls.key that does not belong to its tls.crt")
    if not private.agrees(loaded):
        return Pair(fault="has a tls.key whose parts do not belong together")
    return Pair("".join(each.public_bytes(serialization.Encoding.PEM).decode("ascii") for each in certificates))


def _spki(public: object) -> bytes:
    found = public.public_bytes(  # type: ignore[attr-defined]  # every public key of the library has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(found)


def _weakness(public: object) -> str:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size > MAX_RSA_BITS:
            return f"has an RSA key of {public.key_size} bits; {MAX_RSA_BITS} is the most"
        return (
            ""
            if public.key_size >= MIN_RSA_BITS
            else f"has an RSA key of {public.key_size} bits; {MIN_RSA_BITS} is the least"
        )
    if isinstance(public, ec.EllipticCurvePublicKey):
        return "" if public.key_size >= 224 else f"has a key on the curve {public.curve.name}, which is too short"
    if isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ""
    return "has a key that is neither RSA nor one on an elliptic curve"


def _weak_signature(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "has a tls.crt that is signed in a way nobody knows"
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        return f"has a tls.crt that is signed with {algorithm.name.upper()}, which clients refuse"
    return ""
