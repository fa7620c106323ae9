"""Which certificates and keys can be served together, and what is said of the others."""

from __future__ import annotations

import base64
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from nexus_core.certificates import pairs

sys.path.insert(0, str(Path(__file__).parents[2] / "golden" / "core"))
import pem


def content(name: str) -> bytes:
    return base64.b64decode(pem.content(name))


def signed_with(key: object, algorithm: object) -> tuple[bytes, bytes]:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(pem.START)
        .not_valid_after(pem.START.replace(year=2036))
        .sign(key, algorithm)  # type: ignore[arg-type]
    )
    private = key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private


@pytest.mark.parametrize(
    ("chain", "key", "fault"),
    [
        ("shop.crt", "shop.key", ""),
        ("two.crt", "one.key", ""),
        ("two.crt", "other.key", "does not belong"),
        ("words.crt", "shop.key", "tls.crt that is no certificate"),
        ("shop.crt", "words.key", "tls.key that is no private key"),
        ("shop.crt", "other.key", "does not belong"),
        ("short.crt", "short.key", "RSA key of 1024 bits"),
        ("locked.crt", "locked.key", "encrypted"),
        ("shop.key", "shop.key", "tls.crt that is no certificate"),
        ("shop.crt", "shop.crt", "tls.key that is no private key"),
    ],
)
def test_verdict_on(chain: str, key: str, fault: str) -> None:
    found = pairs.read_pair(content(chain), content(key))
    assert fault in found.fault
    assert bool(found.fault) == bool(fault) == (not found.chain)


@pytest.mark.parametrize(("chain", "key"), [(b"", b"x"), (b"x", b" \n"), (b"x" * 2_000_000, b"x")])
def test_what_is_empty_or_too_large_is_told(chain: bytes, key: bytes) -> None:
    assert pairs.read_pair(chain, key).fault.startswith("has a")


def test_the_chain_is_in_normal_form() -> None:
    chain = b"Bag Attributes\n\r\n" + content("two.crt").replace(b"\n", b"\r\n") + b"\n\ntrailing words\n"
    found = pairs.read_pair(chain, content("one.key"))
    assert found.chain.encode() == content("two.crt")


def test_algorithms_that_no_client_takes_are_refused() -> None:
    weak = signed_with(dsa.generate_private_key(2048), hashes.SHA256())
    assert "neither RSA nor" in pairs.read_pair(*weak).fault
    curve = signed_with(ec.generate_private_key(ec.SECP192R1()), hashes.SHA256())
    assert "too short" in pairs.read_pair(*curve).fault


@pytest.mark.parametrize("name", ["rsa", "p256", "p384", "ed25519"])
def test_what_is_taken_openssl_loads(name: str, tmp_path: Path) -> None:
    keys = {
        "rsa": lambda: (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        "p256": lambda: (ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
        "p384": lambda: (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        "ed25519": lambda: (ed25519.Ed25519PrivateKey.generate(), None),
    }
    key, algorithm = keys[name]()
    if name == "ed25519":
        made, _ = _ed25519(key)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    else:
        made, private = signed_with(key, algorithm)
    found = pairs.read_pair(made, private)
    assert not found.fault
    (tmp_path / "crt").write_text(found.chain)
    (tmp_path / "key").write_bytes(private)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "crt", tmp_path / "key")


def _ed25519(key: object) -> tuple[bytes, bytes]:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x.example")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())  # type: ignore[attr-defined]
    made = made.serial_number(1).not_valid_before(pem.START).not_valid_after(pem.START.replace(year=2036))
    return made.sign(key, None).public_bytes(serialization.Encoding.PEM), b""  # type: ignore[arg-type]


def test_what_openssl_refuses_is_refused_here(tmp_path: Path) -> None:
    (tmp_path / "crt").write_bytes(content("short.crt"))
    (tmp_path / "key").write_bytes(content("short.key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=2")
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    assert pairs.read_pair(content("short.crt"), content("short.key")).fault


def test_verdicts_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_REMEMBERED", 2)
    pairs._remembered.clear()
    first = pairs.read_pair(content("shop.crt"), content("shop.key"))
    assert pairs.read_pair(content("shop.crt"), content("shop.key")) is first
    for name in ("other", "old", "new"):
        pairs.read_pair(content(f"{name}.crt"), content(f"{name}.key"))
    assert len(pairs._remembered) == 2
    assert "PRIVATE" not in repr(pairs._remembered)
