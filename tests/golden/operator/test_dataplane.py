"""`<case>.in.yaml` (what a Gateway asks for) → `<case>.out.yaml` (its data plane)."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from nexus_core.certificates.sealing import Opener, Sealer, SealError, parse_key
from nexus_core.model.gateway_parameters import NexusGatewayParametersSpec
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Certificate
from nexus_core.translate.translation import Infrastructure
from nexus_operator.children.dataplanes import DataPlane, Fabric, label_of, name_of, render_data_plane
from nexus_operator.world.kinds import RENDERED

CASES = Path(__file__).parent / "dataplane"
KEY = bytes(range(32))
OWNER = {
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "web", "uid": "u-1", "controller": True,
    "blockOwnerDeletion": True,
}  # fmt: skip


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def fabric(given: dict[str, Any]) -> Fabric:
    return Fabric(
        image="ghcr.io/nexus/nexus:1",
        seal_key=KEY,
        consul_url="http://consul:8500",
        consul_token=given.get("consulToken", ""),
        otlp_endpoint=given.get("otlpEndpoint", ""),
        pull_secrets=tuple(given.get("pullSecrets", ())),
    )


def plane(case: dict[str, Any]) -> DataPlane:
    parameters = case.get("parameters")
    infrastructure = Infrastructure(
        labels=case.get("labels", {}),
        annotations=case.get("annotations", {}),
        parameters=NexusGatewayParametersSpec.model_validate_json(json.dumps(parameters)) if parameters else None,
        addresses=tuple(tuple(pair) for pair in case.get("addresses", ())),
        ports=tuple(tuple(pair) for pair in case["ports"]),
    )
    ref = ObjectRef("Gateway", case["gateway"]["namespace"], case["gateway"]["name"])
    owner = case.get("owner", OWNER)
    return DataPlane(ref, case.get("namespace", ref.namespace), infrastructure, owner, case.get("className", ""))


@pytest.mark.parametrize("case", sorted(p.name.removesuffix(".in.yaml") for p in CASES.glob("*.in.yaml")))
def test_a_data_plane_is_as_reviewed(case: str, accept: bool) -> None:
    """Run `pytest --accept` after a meant change; the diff is the review."""
    given = yaml.safe_load((CASES / f"{case}.in.yaml").read_text())
    children = render_data_plane(plane(given), fabric(given.get("fabric", {})))
    rendered = yaml.dump_all(children, Dumper=_Plain, sort_keys=False, width=120)
    golden = CASES / f"{case}.out.yaml"
    if accept:
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def children(**asked: Any) -> dict[str, dict[str, Any]]:
    case = {"gateway": {"name": "web", "namespace": "shop"}, "ports": [[80, "TCP"]], **asked}
    return {str(o["kind"]): dict(o) for o in render_data_plane(plane(case), fabric(asked.get("fabric", {})))}


def seal_key(data: dict[str, str]) -> bytes:
    """The key as the pod reads it."""
    return parse_key(base64.b64decode(data["seal-key"]).decode())


def test_a_gateway_cannot_take_the_labels_by_which_its_pods_are_found() -> None:
    asked = {"gateway.networking.k8s.io/gateway-name": "another", "app.kubernetes.io/component": "x", "team": "shop"}
    made = children(labels=asked)
    pod = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        selector = made[kind]["spec"]["selector"]["matchLabels"]
        assert selector.items() <= pod.items()
    assert made["Service"]["spec"]["selector"].items() <= pod.items()
    assert pod["gateway.networking.k8s.io/gateway-name"] == "web"
    assert pod["team"] == "shop"


def test_a_field_that_is_wanted_no_more_changes_the_mark() -> None:
    """Server-side apply removes it only if it is applied at all, and what is left is equal."""
    before, after = children(addresses=[["IPAddress", "192.0.2.9"]])["Service"], children()["Service"]
    assert "loadBalancerIP" in before["spec"]
    assert "loadBalancerIP" not in after["spec"]
    assert before["metadata"]["annotations"][RENDERED] != after["metadata"]["annotations"][RENDERED]


def test_another_secret_is_another_pod() -> None:
    def template(**given: Any) -> Any:
        return children(fabric=given)["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    assert template(consulToken="a") != template(consulToken="b")
    assert template(consulToken="a") == template(consulToken="a")


def test_seal_key_and_session_secret_are_each_gateways_own() -> None:
    one, other = (
        children()["Secret"]["data"],
        children(gateway={"name": "other", "namespace": "shop"})["Secret"]["data"],
    )
    certificate = Certificate(
        "Secret/shop/tls", "Secret shop/tls", "", *Sealer(KEY).seal(b"key", "Secret/shop/tls", ["shop/web"])
    )
    assert Opener(seal_key(one), "shop/web").unseal(certificate) == b"key"
    for gateway in ("shop/web", "shop/other"):
        with pytest.raises(SealError):
            Opener(seal_key(other), gateway).unseal(certificate)
    assert base64.b64encode(KEY).decode() not in {base64.b64decode(value).decode() for value in one.values()}
    assert one["session-secret"] != other["session-secret"]
    assert len(base64.b64decode(one["session-secret"])) >= 16
    assert "consul-token" not in one


def test_another_key_of_the_installation_is_another_pod() -> None:
    asked: dict[str, Any] = {"gateway": {"name": "web", "namespace": "shop"}, "ports": [[443, "TCP"]]}

    def mark(key: bytes) -> str:
        made = {str(o["kind"]): o for o in render_data_plane(plane(asked), replace(fabric({}), seal_key=key))}
        return str(made["Deployment"]["spec"]["template"]["metadata"]["annotations"]["nexus.dev/secrets"])

    assert mark(KEY) == mark(KEY) != mark(bytes(32))


@pytest.mark.parametrize(("gateway", "name"), [("web", "web-nexus"), ("w" * 57, "w" * 57 + "-nexus")])
def test_names_are_the_gateways_own_as_long_as_they_fit(gateway: str, name: str) -> None:
    assert name_of(gateway) == name


def test_names_and_labels_of_other_gateways_are_valid_and_differ() -> None:
    gateways = ["a.b", "a-b", "1st", "g1st", "x" * 253, "x" * 252 + "y", "x" * 56 + "." + "x"]
    names = [name_of(gateway) for gateway in gateways]
    assert len(set(names)) == len(gateways)
    for name in names:
        assert len(name) <= 63
        assert name[0].isalpha()
        assert "." not in name
    labels = [label_of(gateway) for gateway in gateways]
    assert len(set(labels)) == len(gateways)
    assert all(len(label) <= 63 for label in labels)


def test_a_fabric_does_not_print_its_secrets() -> None:
    assert "acl-token" not in repr(fabric({"consulToken": "acl-token"}))
    assert repr(KEY) not in repr(fabric({}))


def test_pods_are_told_only_what_a_gateway_reads() -> None:
    from dataclasses import fields

    from nexus_gateway.settings import GatewaySettings

    known = {each.metadata["env"] for each in fields(GatewaySettings)}
    asked = {"consulToken": "t", "otlpEndpoint": "http://jaeger:4318"}
    [container] = children(fabric=asked)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {entry["name"] for entry in container["env"]} <= known


def test_pods_keep_their_configuration_where_a_restart_of_the_container_finds_it() -> None:
    """With Consul away, a gateway that was killed serves from there; the root file system goes with the container."""
    pod = children()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    kept = {each["name"]: each.get("value", "") for each in container["env"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"] for each in pod["volumes"]}
    for setting in ("NEXUS_GATEWAY_STATE_DIR", "NEXUS_PLUGIN_CACHE"):
        mount = next((path for path in mounts if f"{kept[setting]}/".startswith(f"{path}/")), None)
        assert mount is not None, f"{setting} is not on a mount"
        assert mounts[mount] in volumes, f"{setting} is not on a volume of the pod"


def test_pods_are_as_the_restricted_pod_security_standard_asks() -> None:
    pod = children()["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
