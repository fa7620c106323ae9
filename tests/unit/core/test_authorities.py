"""Bundles of certificate authorities."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from nexus_core.certificates import authorities


def authority(name: str) -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 1, begin, begin + datetime.timedelta(days=9))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), pem


ONE, KEY = authority("one")
TWO, _ = authority("two")


def test_a_bundle_keeps_its_certificates_in_order_and_each_once() -> None:
    text = b"a comment\n" + TWO + b"\n" + ONE + TWO
    assert authorities.fault_of(text) == ""
    assert authorities.normal_form(text) == (TWO + ONE).decode()


def test_a_key_that_lies_beside_the_certificates_is_left_out() -> None:
    assert authorities.normal_form(KEY + ONE) == ONE.decode()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b" \n", "has an empty ca.crt"),
        (KEY, "has a ca.crt that is no certificate in PEM"),
        (ONE.replace(b"M", b"N", 3), "has a ca.crt that is no certificate in PEM"),
        (ONE + b"\n" * authorities.MAX_BYTES, "has a ca.crt of more than 1048576 bytes"),
    ],
)
def test_what_is_no_bundle_says_so(text: bytes, fault: str) -> None:
    assert authorities.fault_of(text) == fault
    assert authorities.normal_form(text) == ""
