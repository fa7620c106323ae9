"""`<case>.in.yaml` (a NexusService) → `<case>.out.yaml` (its children)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from nexus_core.model.load import parse
from nexus_operator.children.render import Surroundings, render

CASES = Path(__file__).parent / "render"
SURROUNDINGS = Surroundings(consul_url="http://consul:8500", otlp_endpoint="http://jaeger:4318")


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@pytest.mark.parametrize("case", sorted(p.name.removesuffix(".in.yaml") for p in CASES.glob("*.in.yaml")))
def test_children_are_as_reviewed(case: str, request: pytest.FixtureRequest) -> None:
    """Run `pytest --accept` after a meant change; the diff is the review."""
    children = render(parse(yaml.safe_load((CASES / f"{case}.in.yaml").read_text())), SURROUNDINGS)
    rendered = yaml.dump_all(children, Dumper=_Plain, sort_keys=False, width=120)
    golden = CASES / f"{case}.out.yaml"
    if request.config.getoption("--accept", default=False):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize(
    ("security", "root_allowed", "hardened"),
    [("compatible", True, True), ("restricted", False, True), ("none", True, False)],
)
def test_the_security_setting_shows_in_the_pod(security: str, root_allowed: bool, hardened: bool) -> None:
    doc = yaml.safe_load((CASES / "workload-minimal.in.yaml").read_text())
    deployment, _ = render(parse(doc), Surroundings(security=security))  # type: ignore[arg-type] - a table of texts
    pod = deployment["spec"]["template"]["spec"]
    assert pod.get("securityContext", {}).get("runAsNonRoot", False) is not root_allowed
    assert ("securityContext" in pod["containers"][0]) is hardened


@pytest.mark.parametrize(("prefix", "told"), [("nexus", []), ("east", ["east"])])
def test_a_workload_is_told_of_an_installation_that_is_not_the_usual(prefix: str, told: list[str]) -> None:
    """Telling of the usual one would start every workload anew when the operator is upgraded."""
    doc = yaml.safe_load((CASES / "workload-minimal.in.yaml").read_text())
    deployment, _ = render(parse(doc), Surroundings(consul_prefix=prefix))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert [each["value"] for each in container["env"] if each["name"] == "NEXUS_CONSUL_PREFIX"] == told
