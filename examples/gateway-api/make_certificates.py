"""Writes the example's certificates anew: `python make_certificates.py`, beside certificates.yaml.

An authority of its own, whose key is thrown away, vouches for three names. The private keys are in the repository for everybody to
read: they are good for this example on this machine, and for nothing else.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
BORN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
YEARS = 20


def name_of(text: str) -> x509.Name:
    """Return a distinguished name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as it is written into files."""
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def build(subject: str, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.CertificateBuilder:
    """Return a certificate that nobody has signed yet."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of("Nexus example authority"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BORN)
        .not_valid_after(BORN + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return builder.add_extension(usage, critical=True)
    return builder


def main() -> None:
    """Write the files."""
    root = ec.generate_private_key(ec.SECP256R1())
    ca = build("Nexus example authority", root.public_key(), authority=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(root.public_key()), critical=False)
    authority = ca.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def issue(*names: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        made = build(names[0], key.public_key(), authority=False)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        made = made.add_extension(by, critical=False)
        return made.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), pem(key)

    edge, inner, vault = (
        issue("*.example.test", "example.test"),
        issue("inner.example.test"),
        issue("vault.example.test"),
    )
    tls = HERE / "backends" / "tls"
    (tls / "ca.crt").write_text(authority)
    (tls / "inner.pem").write_text("".join(inner))
    (tls / "vault.pem").write_text("".join(vault))

    def block(text: str) -> str:
        return "".join(f"    {line}\n" for line in text.splitlines())

    (HERE / "certificates.yaml").write_text(
        "# Made by make_certificates.py. For this example alone: everybody can read these keys.\n"
        "apiVersion: v1\nkind: Secret\nmetadata: {name: edge-tls, namespace: edge}\ntype: kubernetes.io/tls\nstringData:\n"
        f"  tls.crt: |\n{block(edge[0])}  tls.key: |\n{block(edge[1])}"
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: example-authority, namespace: edge}\ndata:\n"
        f"  ca.crt: |\n{block(authority)}"
    )


if __name__ == "__main__":
    main()
