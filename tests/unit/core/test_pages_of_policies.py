"""What the pages on policies show is so: every YAML loads, and the how-to gives what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from nexus_core.model.load import parse, parse_text
from nexus_core.model.policies import NexusPolicySpec, PolicyFields
from nexus_core.snapshot import Fallback, Fault, Mirror, RateLimit, SizeLimit
from nexus_core.translate import translate

DOCS = Path(__file__).parents[3] / "docs"
HOW_TO = DOCS / "how-to/protect-a-service.md"


def blocks(page: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def test_the_how_to_gives_what_it_promises() -> None:
    named = re.findall(r"<!-- test: (\w+) -->\n```yaml\n(.*?)```", HOW_TO.read_text("utf-8"), re.DOTALL)
    assert [name for name, _ in named] == ["start", "limits", "concurrency", "health", "retry", "fallback", "trial"]
    resources, problems = parse_text("\n---\n".join(text for _, text in named), HOW_TO.name)
    found = translate(resources)
    assert not problems
    assert not found.problems
    orders = next(u for u in found.snapshot.upstreams if u.id == "shop/orders")
    assert (orders.concurrency.max_requests, orders.concurrency.adaptive) == (200, True)
    assert (orders.breaker.failures, orders.breaker.error_ratio) == (5, 0.5)
    assert orders.outlier is not None
    assert orders.health is not None
    assert orders.hedge is not None
    (rule,) = found.snapshot.routes[0].rules
    assert [type(f) for f in rule.filters] == [RateLimit, RateLimit, Fault, SizeLimit, Mirror, Fallback]


@pytest.mark.parametrize("name", ["start", "limits", "concurrency", "health", "retry", "fallback", "trial"])
def test_each_step_of_the_how_to_stands_for_itself(name: str) -> None:
    named = dict(re.findall(r"<!-- test: (\w+) -->\n```yaml\n(.*?)```", HOW_TO.read_text("utf-8"), re.DOTALL))
    resources, problems = parse_text("\n---\n".join(dict.fromkeys((named["start"], named[name]))), HOW_TO.name)
    assert not problems
    assert not translate(resources).problems


@pytest.mark.parametrize("page", ["filters", "health-checks", "balancers"])
def test_policies_in_the_reference_are_policies(page: str) -> None:
    for text in blocks(DOCS / f"reference/{page}.md"):
        document = yaml.safe_load(text)
        if "spec" in document:
            metadata = {"name": "x", "namespace": "shop"}
            manifest = {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPolicy", "metadata": metadata, **document}
            resource = parse(manifest)
            assert isinstance(resource.spec, NexusPolicySpec), [str(p) for p in resource.problems]


def test_the_reference_places_every_section() -> None:
    text = (DOCS / "reference/policies.md").read_text("utf-8")
    for name, field in PolicyFields.model_fields.items():
        assert f"`{field.alias or name}`" in text
