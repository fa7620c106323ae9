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
        ("gateway.tls.secrets={Not_A_Name}", "gateway.tls.secrets"),
    ],
)
def test_the_schema_names_the_wrong_value(helm: Helm, value: str, complaint: str) -> None:
    done = helm("template", "nexus", str(CHART), "--kube-version", "1.36.0", *REQUIRED, "--set", value)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_operator_may_do_no_more_than_it_needs(helm: Helm) -> None:
    """No wildcard, no Secret, no write to what users declare."""
    roles = [o for o in objects(render(helm, *REQUIRED, *GATEWAY_API)) if o["kind"] in ("ClusterRole", "Role")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            for field in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule[field], rule
            assert "secrets" not in rule["resources"], rule
            if rule["apiGroups"][0] in ("nexus.dev", "gateway.networking.k8s.io"):
                own = [r for r in rule["resources"] if not r.endswith(("/status", "/finalizers"))]
                assert not own or set(rule["verbs"]) <= {"get", "list", "watch"}, rule


def test_the_operator_may_list_and_watch_every_kind_it_watches(helm: Helm) -> None:
    from nexus_operator.world.kinds import WATCHED

    [role] = [o for o in objects(render(helm, *REQUIRED)) if o["kind"] == "ClusterRole"]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    for kind in WATCHED:
        for verb in ("list", "watch"):
            assert (kind.group, kind.plural, verb) in allowed, kind


def test_gateways_have_no_kubernetes_credentials(helm: Helm) -> None:
    pods = {
        o["metadata"]["name"]: o["spec"]["template"]["spec"]
        for o in objects(render(helm, *REQUIRED))
        if o["kind"] == "Deployment"
    }
    assert pods["nexus-gateway"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pods["nexus-gateway"]
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


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


def test_every_tls_secret_is_a_subdirectory_of_the_gateways_certificates(helm: Helm) -> None:
    rendered = objects(render(helm, *REQUIRED, "--set", "gateway.tls.secrets={shop-tls,web-tls}"))
    [pod] = [
        each["spec"]["template"]["spec"]
        for each in rendered
        if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-gateway")
    ]
    [container] = pod["containers"]
    env = {each["name"]: each.get("value", "") for each in container["env"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    for secret in ("shop-tls", "web-tls"):
        assert secrets[mounts[f"{env['NEXUS_TLS_CERTIFICATES']}/{secret}"]] == secret
    listens = int(env["NEXUS_GATEWAY_TLS_LISTEN"].rpartition(":")[2])
    assert {"name": "https", "containerPort": listens} in container["ports"]
    [service] = [
        each["spec"] for each in rendered if each["kind"] == "Service" and each["metadata"]["name"].endswith("-gateway")
    ]
    assert {"name": "https", "port": 443, "targetPort": "https"} in service["ports"]


def test_every_setting_the_chart_gives_the_gateway_is_one_it_reads(helm: Helm) -> None:
    from dataclasses import fields

    from nexus_gateway.settings import GatewaySettings

    known = {each.metadata["env"] for each in fields(GatewaySettings)}
    [env] = [
        each["spec"]["template"]["spec"]["containers"][0]["env"]
        for each in objects(render(helm, *REQUIRED, "--set", "gateway.tls.secrets={shop-tls}"))
        if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-gateway")
    ]
    assert {entry["name"] for entry in env} <= known


def test_the_gateway_keeps_its_configuration_where_a_restart_of_the_container_finds_it(helm: Helm) -> None:
    """With Consul away, a gateway that was killed serves from there; the root file system goes with the container."""
    [gateway] = [
        each
        for each in objects(render(helm, *REQUIRED))
        if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-gateway")
    ]
    pod = gateway["spec"]["template"]["spec"]
    [container] = pod["containers"]
    kept = {each["name"]: each.get("value", "") for each in container["env"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"] for each in pod["volumes"]}
    for setting in ("NEXUS_GATEWAY_STATE_DIR", "NEXUS_PLUGIN_CACHE"):
        mount = next((path for path in mounts if f"{kept[setting]}/".startswith(f"{path}/")), None)
        assert mount is not None, f"{setting} is not on a mount"
        assert mounts[mount] in volumes, f"{setting} is not on a volume of the pod"
