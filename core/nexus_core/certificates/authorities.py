"""Bundles of certificate authorities: what a ConfigMap's `ca.crt` holds, in one form. Knows nothing of trust, only of reading."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

MAX_BYTES = 1_048_576
"""What a ConfigMap holds at most."""


def fault_of(text: bytes) -> str:
    """Return what is wrong with a bundle, as the end of a sentence; empty when nothing is."""
    return _read(text)[1]


def normal_form(text: bytes) -> str:
    """Return the certificates of a bundle as PEM, without repeats, in its order; empty when it has a fault."""
    return _read(text)[0]


@lru_cache(maxsize=1024)
def _read(text: bytes) -> tuple[str, str]:
    # Kept: every translation of the world asks for the same bundles, and reading one costs a hundred times a look-up.
    if not text.strip():
        return "", "has an empty ca.crt"
    if len(text) > MAX_BYTES:
        return "", f"has a ca.crt of more than {MAX_BYTES} bytes"
    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError:
        return "", "has a ca.crt that is no certificate in PEM"
    pem = dict.fromkeys(each.public_bytes(Encoding.PEM).decode("ascii") for each in found)
    return "".join(pem), ""
