"""The chart, rendered by the real helm: `<case>.values.yaml` → `<case>.out.yaml`, and what must hold in every rendering."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
CHART = REPOSITORY / "charts" / "nexus"
GATEWAY_API = ("--api-versions", "gateway.networking.k8s.io/v1/GatewayClass")
CASES = sorted(path.name.removesuffix(".values.yaml") for path in HERE.glob("*.values.yaml"))
REQUIRED = ("--set", "consul.url=http://consul:8500")

Helm = Callable[..., subprocess.CompletedProcess[str]]


def render(helm: Helm, *args: str) -> str:
    done = helm("template", "nexus", str(CHART), "--namespace", "nexus-system", "--kube-version", "1.36.0", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    return [doc for doc in yaml.safe_load_all(text) if doc]


@pytest.mark.parametrize("case", CASES)
def test_rendering_is_as_reviewed(helm: Helm, case: str, request: pytest.FixtureRequest) -> None:
    """Run `pytest --accept` after a meant change; the diff is the review."""
    args = () if case == "without-gateway-api" else GATEWAY_API
    rendered = render(helm, "--values", str(HERE / f"{case}.values.yaml"), *args)
    golden = HERE / f"{case}.out.yaml"
    if request.config.getoption("--accept", default=False):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    done = helm("lint", str(CHART), "--strict", "--kube-version", "1.36.0", *REQUIRED)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_consul_the_rendering_ends_with_the_remedy(helm: Helm) -> None:
    done = helm("template", "nexus", str(CHART), "--kube-version", "1.36.0")
    assert done.returncode != 0
    assert "consul.url is empty" in done.stderr
    assert "--set consul.url=http" in done.stderr


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("consul.url=consul:8500", "consul.url"),
        ("gateway.replicas=0", "gateway.replicas"),
        ("workloads.security=tight", "workloads.security"),
        ("gatway.replicas=3", "gatway"),
        ("gateway.workers=0", "gateway.workers"),
        ("gateway.autoscaling.maxReplicas=0", "gateway.autoscaling.maxReplicas"),
        ("gateway.autoscaling.enabled=true,gateway.autoscaling.minReplicas=11", "gateway.autoscaling.minReplicas"),
        ("gateway.autoscaling.enabled=true,gateway.resources.requests.cpu=null", "gateway.resources.requests.cpu"),
        ("gateway.podDisruptionBudget.maxUnavailable=half", "gateway.podDisruptionBudget.maxUnavailable"),
        ("gateway.tls.secrets={Not_A_Name}", "gateway.tls.secrets"),
    ],
)
def test_the_schema_names_the_wrong_value(helm: Helm, value: str, complaint: str) -> None:
    done = helm("template", "nexus", str(CHART), "--kube-version", "1.36.0", *REQUIRED, "--set", value)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_operator_may_do_no_more_than_it_needs(helm: Helm) -> None:
    """No wildcard, no write to what users declare, and nothing of a pod or a ConfigMap but a look."""
    roles = [o for o in objects(render(helm, *REQUIRED, *GATEWAY_API)) if o["kind"] in ("ClusterRole", "Role")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            for field in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule[field], rule
            if {"pods", "configmaps", "namespaces"} & set(rule["resources"]):
                assert set(rule["verbs"]) <= {"get", "list", "watch"}, rule
            if rule["apiGroups"][0] in ("nexus.dev", "gateway.networking.k8s.io"):
                own = [r for r in rule["resources"] if not r.endswith(("/status", "/finalizers"))]
                assert not own or set(rule["verbs"]) <= {"get", "list", "watch"}, rule


def test_the_operator_may_write_every_child_and_every_status(helm: Helm) -> None:
    from nexus_operator.children.plan import OWNERS
    from nexus_operator.world.kinds import (
        BACKEND_TLS_POLICY,
        BY_NAME,
        CHILDREN,
        GATEWAY,
        GATEWAY_CLASS,
        LISTENER_SET,
        ROUTES,
    )

    allowed = allowed_by_role(helm)
    for kind in CHILDREN:
        for verb in ("get", "create", "patch", "delete"):
            assert (kind.group, kind.plural, verb) in allowed, kind
    for kind in (*ROUTES, GATEWAY, GATEWAY_CLASS, LISTENER_SET, BACKEND_TLS_POLICY):
        assert (kind.group, f"{kind.plural}/status", "patch") in allowed, kind
    for owner in OWNERS:
        assert (BY_NAME[owner].group, f"{BY_NAME[owner].plural}/finalizers", "update") in allowed, owner


def allowed_by_role(helm: Helm) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of everything the operator may do in the whole cluster."""
    [role] = [o for o in objects(render(helm, *REQUIRED)) if o["kind"] == "ClusterRole"]
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_operator_may_list_and_watch_every_kind_it_watches(helm: Helm) -> None:
    from nexus_operator.world.kinds import WATCHED

    allowed = allowed_by_role(helm)
    for kind in WATCHED:
        for verb in ("list", "watch"):
            assert (kind.group, kind.plural, verb) in allowed, kind


def test_the_operators_pod_is_confined(helm: Helm) -> None:
    [pod] = [o["spec"]["template"]["spec"] for o in objects(render(helm, *REQUIRED)) if o["kind"] == "Deployment"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_no_secret_is_rendered(helm: Helm) -> None:
    """The operator makes the seal key: a rendered one would change with each upgrade, and lie in Helm's own history."""
    assert not [o for o in objects(render(helm, *REQUIRED, *GATEWAY_API)) if o["kind"] == "Secret"]


@pytest.mark.parametrize("case", CASES)
def test_the_gateway_values_are_parameters_that_can_be_used(helm: Helm, case: str) -> None:
    from nexus_core.model.load import parse

    rendered = objects(render(helm, "--values", str(HERE / f"{case}.values.yaml"), *GATEWAY_API))
    [parameters] = [o for o in rendered if o["kind"] == "NexusGatewayParameters"]
    resource = parse(parameters)
    assert resource.problems == ()
    assert resource.spec is not None
    name = parameters["metadata"]["name"]
    classes = [o for o in rendered if o["kind"] == "GatewayClass"]
    for one in classes:
        assert one["spec"]["parametersRef"] == {
            "group": "nexus.dev", "kind": "NexusGatewayParameters", "name": name, "namespace": "nexus-system",
        }  # fmt: skip
    [env] = [
        o["spec"]["template"]["spec"]["containers"][0]["env"]
        for o in rendered
        if o["kind"] == "Deployment" and o["metadata"]["name"] == "nexus-operator"
    ]
    assert {"name": "NEXUS_GATEWAY_PARAMETERS", "value": f"nexus-system/{name}"} in env


def test_every_setting_the_chart_gives_the_operator_is_one_it_reads(helm: Helm) -> None:
    source = (REPOSITORY / "operator" / "nexus_operator" / "settings.py").read_text()
    [env] = [
        o["spec"]["template"]["spec"]["containers"][0]["env"]
        for o in objects(render(helm, *REQUIRED, "--set", "otlp.endpoint=http://otlp:4318"))
        if o["kind"] == "Deployment" and o["metadata"]["name"] == "nexus-operator"
    ]
    for entry in env:
        assert f'"{entry["name"]}"' in source, entry["name"]


def test_the_charts_crds_are_the_generated_ones() -> None:
    """Helm installs CRDs from the chart's own folder: copies, `cp crds/*.yaml charts/nexus/crds/` renews them."""
    generated = {path.name: path.read_text() for path in (REPOSITORY / "crds").glob("*.yaml")}
    copied = {path.name: path.read_text() for path in (CHART / "crds").glob("*.yaml")}
    assert generated
    assert copied == generated


def test_every_value_is_explained() -> None:
    page = (REPOSITORY / "docs" / "reference" / "chart-values.md").read_text()

    def leaves(value: Any, path: str) -> list[str]:
        if isinstance(value, dict) and value and not path.endswith("resources"):
            return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".lstrip("."))]
        return [path]

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    missing = [leaf for leaf in leaves(values, "") if f"`{leaf}`" not in page]
    assert not missing


def test_tls_secrets_are_certificates_of_an_https_listener(helm: Helm) -> None:
    """One called `default` comes first: it is shown to clients that ask for a name that no certificate has."""
    values = ("--set", "gateway.tls.secrets={shop-tls,default,web-tls}", "--set", "gateway.service.tlsPort=8443")
    [gateway] = [o for o in objects(render(helm, *REQUIRED, *GATEWAY_API, *values)) if o["kind"] == "Gateway"]
    http, https = gateway["spec"]["listeners"]
    assert (http["protocol"], http["port"]) == ("HTTP", 80)
    assert (https["protocol"], https["port"]) == ("HTTPS", 8443)
    assert [ref["name"] for ref in https["tls"]["certificateRefs"]] == ["default", "shop-tls", "web-tls"]
    assert http["allowedRoutes"] == https["allowedRoutes"] == {"namespaces": {"from": "All"}}
