"""Certificates and kubeconfigs of one cluster: a private CA, P-256 keys (fast to make), valid for a week.

A fresh set per cluster, never reused: a leaked key of a removed cluster opens nothing.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nexus_testbed import places

LIFETIME = datetime.timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One certificate to issue: file name, subject, and the names it may be reached by."""

    name: str
    common_name: str
    organization: str | None = None
    sans: tuple[str, ...] = ()
    kubeconfig: bool = False


LEAVES = (
    Leaf("apiserver", "kube-apiserver", sans=(
        "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
        "localhost", "127.0.0.1", places.NODE_IP, places.API_IP)),
    Leaf("admin", "admin", "system:masters", kubeconfig=True),
    Leaf("controller-manager", "system:kube-controller-manager", "system:masters", kubeconfig=True),
    Leaf("scheduler", "system:kube-scheduler", "system:masters", kubeconfig=True),
    Leaf("lb", "nexus-testbed-lb", "system:masters", kubeconfig=True),
    Leaf("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    Leaf("node", f"system:node:{places.NODE}", "system:nodes", sans=(places.NODE, places.NODE_IP), kubeconfig=True),
)  # fmt: skip


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))  # fmt: skip


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def create(where: places.Places) -> None:
    """Write `pki/*.crt|key`, the service-account key pair and one kubeconfig per client that has one."""
    directory = where.pki
    directory.mkdir(mode=0o700, parents=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"nexus-testbed-{where.id}")])
    ca_usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)  # fmt: skip
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(ca_usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_key(directory / "ca.key", ca_key)
    (directory / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    for leaf in LEAVES:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
        if leaf.organization:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
        builder = _builder(x509.Name(attributes), ca_name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)  # fmt: skip
        if leaf.sans:
            builder = builder.add_extension(x509.SubjectAlternativeName([_san(n) for n in leaf.sans]), critical=False)
        certificate = builder.sign(ca_key, hashes.SHA256())
        _write_key(directory / f"{leaf.name}.key", key)
        (directory / f"{leaf.name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        if leaf.kubeconfig:
            _write_kubeconfig(where, leaf.name)

    sa_key = ec.generate_private_key(ec.SECP256R1())
    _write_key(directory / "sa.key", sa_key)
    (directory / "sa.pub").write_bytes(
        sa_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _write_kubeconfig(where: places.Places, name: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": where.netns, "cluster": {
            "server": places.API_URL, "certificate-authority": str(where.pki / "ca.crt")}}],
        "users": [{"name": name, "user": {
            "client-certificate": str(where.pki / f"{name}.crt"), "client-key": str(where.pki / f"{name}.key")}}],
        "contexts": [{"name": where.netns, "context": {"cluster": where.netns, "user": name}}],
        "current-context": where.netns,
    }  # fmt: skip
    (where.root / f"{name}.kubeconfig").write_text(yaml.safe_dump(config, sort_keys=False))
