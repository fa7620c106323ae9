"""Tenants that do not trust each other: what the Secrets of one Gateway's namespace give, and what they do not.

Nexus is installed as the documentation says it for a Consul that refuses whatever is not allowed.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_core.certificates.sealing import Opener, Sealer, SealError, parse_key
from nexus_core.snapshot import Snapshot, wire
from nexus_testbed import Cluster, components
from shop import NODE, REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

GATEWAY_API = "gateway.networking.k8s.io/v1"
TENANTS = ("tenant-one", "tenant-two")
SYSTEM = "nexus-system"
CONSUL = f"http://{NODE}:8500"
WEBPOD = str(REPOSITORY / "tests" / "cluster" / "webpod.py")
PAGE = REPOSITORY / "docs" / "how-to" / "install-on-kubernetes.md"


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


class Guarded:
    """A Consul that refuses whatever is not allowed, in the network of a cluster. Tokens by `name`: those of the documented policies."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._management = cluster, str(uuid.uuid4())
        tokens = f'{{ initial_management = "{self._management}" agent = "{self._management}" }}'
        config = (
            "performance { raft_multiplier = 1 } disable_update_check = true "
            f'acl {{ enabled = true default_policy = "deny" tokens {tokens} }}'
        )
        with (folder / "consul.log").open("wb") as log:
            cluster.spawn_in_net(
                [str(components.ensure(["consul"])["consul"]), "agent", "-server", "-bootstrap-expect=1", f"-bind={NODE}",
                 f"-client={NODE}", f"-data-dir={folder / 'consul'}", "-node=guarded", "-disable-host-node-id", f"-hcl={config}"],
                stdout=log,
            )  # fmt: skip
        cluster.wait(self._is_ready, "Consul is ready", 60)
        self.tokens: dict[str, str] = {}
        for name, rules in zip(
            ("operator", "planes", "hub"), re.findall(r"```hcl\n(.*?)```", PAGE.read_text(), re.DOTALL), strict=True
        ):
            self._put("/v1/acl/policy", {"Name": name, "Rules": rules})
            self.tokens[name] = str(self._put("/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"])

    def _is_ready(self) -> bool:
        try:
            answer = self._cluster.http_get(
                f"{CONSUL}/v1/catalog/nodes", headers={"X-Consul-Token": self._management}, timeout_s=2
            )
        except OSError:
            return False
        return answer.status == 200 and "guarded" in answer.text

    def _put(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"X-Consul-Token": self._management}
        answer = self._cluster.http("PUT", f"{CONSUL}{path}", headers=headers, body=json.dumps(body))
        assert answer.status == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Guarded]]:
    """A cluster with Nexus installed by its chart, each side with its own token."""
    with Cluster() as cluster:
        cluster.install_gateway_api()
        consul = Guarded(cluster, tmp_path_factory.mktemp("guarded"))
        cluster.kubectl("create", "namespace", SYSTEM)
        for name, token in consul.tokens.items():
            cluster.kubectl(
                "create", "secret", "generic", f"consul-{name}", "-n", SYSTEM, f"--from-literal=token={token}"
            )
        cluster.helm(
            "install", "nexus", str(REPOSITORY / "charts" / "nexus"), "--namespace", SYSTEM, "--set", f"consul.url={CONSUL}",
            "--set", "consul.tokenSecret.name=consul-operator", "--set", "consul.gatewayTokenSecret.name=consul-planes",
            "--wait", "--timeout", "120s",
        )  # fmt: skip
        yield cluster, consul


@pytest.fixture(scope="module")
def bed(guarded: tuple[Cluster, Guarded], pairs: dict[str, tuple[bytes, bytes]]) -> Cluster:
    """A Gateway with a certificate in the namespace of each tenant, in front of a web server of its own."""
    cluster, _ = guarded
    labels = {"app": "web"}
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
            {"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": "web", "namespace": namespace},
             "spec": {"parentRefs": [{"name": "web"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
             "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                 "containers": [{"name": "web", "image": "python:3.11", "args": [WEBPOD],
                                 "env": [{"name": "PORT", "value": "8000"}, {"name": "POD_NAME", "value": namespace}]}]}}}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace},
             "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]}},
        ])  # fmt: skip
    return cluster


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
    """What a tenant can read, with the token that it finds in the Secret of its data plane."""
    data: dict[str, str] = bed.get("secret", "web-nexus", TENANTS[0])["data"]
    headers = {"X-Consul-Token": base64.b64decode(data["consul-token"]).decode()}

    def read(key: str) -> bytes:
        answer = bed.http_get(f"{CONSUL}/v1/kv/{key}?raw", headers=headers)
        assert answer.status == 200, answer.text
        return answer.body

    found = wire.parse_manifest(read(wire.manifest_key()))
    return wire.decode(found, {chunk: read(wire.chunk_key(chunk)) for chunk in found.chunks})


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
    installations = secret(bed, "nexus-seal-key", SYSTEM, "key")
    assert Sealer(installations).unseal(found).strip() == pairs[TENANTS[0]][1].strip()


def test_each_side_works_with_its_own_token_and_a_tenants_writes_no_configuration(
    bed: Cluster, guarded: tuple[Cluster, Guarded], pairs: dict[str, tuple[bytes, bytes]]
) -> None:
    _, consul = guarded
    for namespace in TENANTS:
        # Published, read, acknowledged, mirrored and discovered: else there were no address, and nobody to answer.
        address = address_of(bed, namespace)
        context = ssl.create_default_context(cadata=pairs[namespace][0].decode())
        context.check_hostname = False
        bed.wait(
            lambda a=address, c=context: bed.http("GET", f"https://{a}/", context=c).status == 200, "it serves", 60
        )  # type: ignore[misc]
        data: dict[str, str] = bed.get("secret", "web-nexus", namespace)["data"]
        values = {base64.b64decode(value).decode() for value in data.values()}
        assert consul.tokens["planes"] in values
        assert consul.tokens["operator"] not in values
    headers = {"X-Consul-Token": consul.tokens["planes"]}
    for path, body in (
        (f"/v1/kv/{wire.manifest_key()}", "{}"),
        (f"/v1/kv/{wire.chunk_key('0' * 64)}", "{}"),
        ("/v1/catalog/deregister", '{"Node": "nexus-k8s"}'),
    ):
        assert bed.http("PUT", f"{CONSUL}{path}", headers=headers, body=body).status == 403


def test_the_documented_token_of_an_event_hub_reaches_its_own_plugins_alone(guarded: tuple[Cluster, Guarded]) -> None:
    cluster, consul = guarded
    headers = {"X-Consul-Token": consul.tokens["hub"]}

    def put(key: str) -> int:
        return cluster.http("PUT", f"{CONSUL}/v1/kv/{key}", headers=headers, body="{}").status

    def read(key: str) -> int:
        return cluster.http_get(f"{CONSUL}/v1/kv/{key}", headers=headers).status

    assert read("nexus/services/shop/events/plugins") == 404
    assert put("nexus/service-plugins/shop/events/one") == 200
    assert read("nexus/services/shop/graph/plugins") == 403
    assert put("nexus/services/shop/events/plugins") == 403
    assert put("nexus/service-plugins/shop/graph/one") == 403


def test_a_new_key_of_the_installation_reaches_every_data_plane(
    bed: Cluster, pairs: dict[str, tuple[bytes, bytes]]
) -> None:
    addresses = {namespace: address_of(bed, namespace) for namespace in TENANTS}
    before = {namespace: secret(bed, "web-nexus", namespace, "seal-key") for namespace in TENANTS}
    bed.kubectl("delete", "secret", "nexus-seal-key", "-n", SYSTEM)
    bed.kubectl("rollout", "restart", "deployment/nexus-operator", "-n", SYSTEM)
    bed.kubectl("rollout", "status", "deployment/nexus-operator", "-n", SYSTEM, "--timeout=120s")
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
