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


def rsa_key(p: int, q: int, /, **changed: int) -> bytes:
    """A key of two primes, PKCS #1; changed: fields that are off by so much."""
    n, e = p * q, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    parts = {"n": n, "e": e, "d": d, "p": p, "q": q, "dp": d % (p - 1), "dq": d % (q - 1), "qi": pow(q, -1, p)}
    body = b"".join(_der(2, _octets(value + changed.get(name, 0))) for name, value in {"version": 0, **parts}.items())
    text = base64.encodebytes(_der(0x30, body))
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + text + b"-----END RSA PRIVATE KEY-----\n"


def _octets(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x80 | (size.bit_length() + 7) // 8]) + _octets(size).lstrip(b"\0")
    return bytes([tag]) + length + content


def certificate_of(n: int) -> bytes:
    """A certificate for an RSA key that nobody has to have made."""
    signer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(rsa.RSAPublicNumbers(65537, n).public_key())
        .serial_number(1)
        .not_valid_before(pem.START)
        .not_valid_after(pem.START.replace(year=2036))
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


# Mersenne primes: the largest primes that anybody can write down without looking for them.
SMALL, LARGE = (2**1279 - 1, 2**2203 - 1), (2**21701 - 1, 2**23209 - 1)


def test_a_key_of_large_primes_takes_no_longer_than_another() -> None:
    """Proving that these two are primes takes minutes, in which an operator would do nothing else."""
    assert "does not belong" in pairs.read_pair(content("shop.crt"), rsa_key(*LARGE)).fault
    told = pairs.read_pair(certificate_of(SMALL[0] * LARGE[0]), rsa_key(SMALL[0], LARGE[0])).fault
    assert "8192 is the most" in told


def test_a_key_has_to_agree_with_itself() -> None:
    chain = certificate_of(SMALL[0] * SMALL[1])
    assert pairs.read_pair(chain, rsa_key(*SMALL)).fault == ""
    for field in ("d", "p", "q", "dp", "dq", "qi"):
        fault = pairs.read_pair(chain, rsa_key(*SMALL, **{field: 2})).fault
        assert "parts do not belong together" in fault or "no private key" in fault, field
