"""Tenants that do not trust each other: what the Secrets of one Gateway's namespace give, and what they do not."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_core.certificates.sealing import Opener, Sealer, SealError, parse_key
from nexus_core.snapshot import Snapshot, wire
from nexus_testbed import Cluster
from shop import Shop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

GATEWAY_API = "gateway.networking.k8s.io/v1"
TENANTS = ("tenant-one", "tenant-two")


def host(namespace: str) -> str:
    return f"{namespace}.example"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Certificate and key of each tenant, in PEM."""
    folder = tmp_path_factory.mktemp("pairs")
    return {namespace: _pair(folder, host(namespace)) for namespace in TENANTS}


def _pair(folder: Path, name: str) -> tuple[bytes, bytes]:
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", crt],
        check=True, capture_output=True,
    )  # fmt: skip
    return crt.read_bytes(), key.read_bytes()


@pytest.fixture(scope="module")
def bed(shop: Shop, pairs: dict[str, tuple[bytes, bytes]]) -> Iterator[Cluster]:
    """A Gateway with a certificate in the namespace of each tenant."""
    cluster = shop.cluster
    for namespace in TENANTS:
        crt, key = pairs[namespace]
        data = {"tls.crt": base64.b64encode(crt).decode(), "tls.key": base64.b64encode(key).decode()}
        tls = {"certificateRefs": [{"name": "own"}]}
        listeners = [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}]
        cluster.apply([
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
             "metadata": {"name": "own", "namespace": namespace}},
            {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters",
             "metadata": {"name": "small", "namespace": namespace},
             "spec": {"replicas": 1, "preStopSeconds": 1, "drainSeconds": 2}},
            {"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"name": "web", "namespace": namespace},
             "spec": {"gatewayClassName": "nexus", "listeners": listeners, "infrastructure": {"parametersRef": {
                 "group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "small"}}}},
        ])  # fmt: skip
    yield cluster
    for namespace in TENANTS:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def address_of(bed: Cluster, namespace: str) -> str:
    def find() -> str:
        status = bed.get("gateway", "web", namespace).get("status", {})
        programmed = {c["type"]: c["status"] for c in status.get("conditions", ())}.get("Programmed")
        return str(status["addresses"][0]["value"]) if programmed == "True" else ""

    return bed.wait(find, f"Gateway {namespace}/web is programmed", 90)


def is_shown(bed: Cluster, address: str, namespace: str, pair: tuple[bytes, bytes]) -> bool:
    """Whether the Gateway proves that it has the certificate's private key."""
    context = ssl.create_default_context(cadata=pair[0].decode())
    try:
        with context.wrap_socket(bed.connect(address, 443), server_hostname=host(namespace)):
            return True
    except OSError:
        return False


def published(bed: Cluster) -> Snapshot:
    """What everybody can read who has a data plane's token for Consul."""
    found = wire.parse_manifest(bed.http_get(f"{Shop.consul}/v1/kv/{wire.manifest_key()}?raw").body)
    chunks = {c: bed.http_get(f"{Shop.consul}/v1/kv/{wire.chunk_key(c)}?raw").body for c in found.chunks}
    return wire.decode(found, chunks)


def secret(bed: Cluster, name: str, namespace: str, key: str) -> bytes:
    data: dict[str, Any] = bed.get("secret", name, namespace)["data"]
    return parse_key(base64.b64decode(data[key]).decode())


def opened(bed: Cluster, key: bytes, gateway: str, namespace: str) -> bytes:
    """Return a tenant's private key, as whoever has this seal key and says to be this Gateway gets it."""
    [found] = [each for each in published(bed).certificates if each.id == f"Secret/{namespace}/own"]
    return Opener(key, gateway).unseal(found)


def test_a_tenants_secrets_open_its_own_certificates_alone(bed: Cluster, pairs: dict[str, tuple[bytes, bytes]]) -> None:
    for namespace in TENANTS:
        assert is_shown(bed, address_of(bed, namespace), namespace, pairs[namespace])
    for mine, theirs in (TENANTS, TENANTS[::-1]):
        key = secret(bed, "web-nexus", mine, "seal-key")
        assert opened(bed, key, f"{mine}/web", mine).strip() == pairs[mine][1].strip()
        for said in (mine, theirs):
            with pytest.raises(SealError):
                opened(bed, key, f"{said}/web", theirs)
    [found] = [each for each in published(bed).certificates if each.id == f"Secret/{TENANTS[0]}/own"]
    installations = secret(bed, "nexus-seal-key", Shop.namespace_of_nexus, "key")
    assert Sealer(installations).unseal(found).strip() == pairs[TENANTS[0]][1].strip()


def test_a_new_key_of_the_installation_reaches_every_data_plane(
    bed: Cluster, pairs: dict[str, tuple[bytes, bytes]]
) -> None:
    addresses = {namespace: address_of(bed, namespace) for namespace in TENANTS}
    before = {namespace: secret(bed, "web-nexus", namespace, "seal-key") for namespace in TENANTS}
    bed.kubectl("delete", "secret", "nexus-seal-key", "-n", Shop.namespace_of_nexus)
    bed.kubectl("rollout", "restart", "deployment/nexus-operator", "-n", Shop.namespace_of_nexus)
    bed.kubectl("rollout", "status", "deployment/nexus-operator", "-n", Shop.namespace_of_nexus, "--timeout=120s")
    unproven = 0

    def is_new(namespace: str) -> bool:
        nonlocal unproven
        unproven += not is_shown(bed, addresses[namespace], namespace, pairs[namespace])
        return secret(bed, "web-nexus", namespace, "seal-key") != before[namespace]

    for namespace in TENANTS:
        bed.wait(lambda namespace=namespace: is_new(namespace), f"{namespace} has another key", 90)  # type: ignore[misc]
        bed.kubectl("rollout", "status", "deployment/web-nexus", "-n", namespace, "--timeout=90s")
        assert is_shown(bed, addresses[namespace], namespace, pairs[namespace])
        key = secret(bed, "web-nexus", namespace, "seal-key")
        assert opened(bed, key, f"{namespace}/web", namespace).strip() == pairs[namespace][1].strip()
        with pytest.raises(SealError):
            opened(bed, before[namespace], f"{namespace}/web", namespace)
    assert not unproven, "pods that do not have the new key yet show on what they opened with the last one"
