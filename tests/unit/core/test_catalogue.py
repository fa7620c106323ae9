"""Every reason has a page, every page a reason; what a page shows is so; the code gives no reason that is not listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal
from nexus_core.marketplace import Index
from nexus_core.model.load import parse_text
from nexus_core.problems.catalogue import GATEWAY_API, HEALTHY, REASONS, slug
from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import Permissions, PluginNeed
from nexus_core.translate import translate

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "errors"
ROOMS = ("core", "operator", "gateway", "cli")
REASON_AT = {
    "Problem": 2,
    "Verdict": 1,
    "_refused": 1,
    "_refuse": 1,
    "Refusal": 0,
    "PluginRejected": 0,
    "MarketplaceTrouble": 0,
    "Condition": 2,
    "Trouble": 0,
}
"""Position of the reason in calls that take one."""
NOT_OURS = {"True", "Unknown"}
"""Statuses of conditions, where a reason depends on them."""

DEMO = Release(
    name="demo",
    version="1.0",
    api=">=1,<2",
    package="demo",
    entry_point="demo:Plugin",
    sha256="0" * 64,
    url="bundled:",
    publisher="nexus",
)


def test_every_reason_has_its_page_and_every_page_its_reason() -> None:
    assert {p.name for p in PAGES.glob("*.md")} - {"README.md"} == {info.page for info in REASONS.values()}
    assert len({info.page for info in REASONS.values()}) == len(REASONS)
    for reason, info in REASONS.items():
        text = (PAGES / info.page).read_text("utf-8")
        assert text.startswith(f"# {reason}\n\n{info.summary}\n"), info.page
        assert "## Cause" in text, info.page
        assert "## This works" in text or "## What to do" in text, info.page


def test_the_index_page_lists_every_reason() -> None:
    text = (PAGES / "README.md").read_text("utf-8")
    for reason, info in REASONS.items():
        assert f"| [{reason}]({info.page}) | {info.summary} |" in text


@pytest.mark.parametrize(
    ("reason", "page"),
    [("PathConflict", "path-conflict"), ("InvalidYaml", "invalid-yaml"), ("HTTPThing", "http-thing")],
)
def test_slugs_are_kebab_case(reason: str, page: str) -> None:
    assert slug(reason) == page


def blocks(reason: str, heading: str) -> Iterator[str]:
    text = (PAGES / REASONS[reason].page).read_text("utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"```yaml\n(.*?)```", section[1], re.DOTALL) if section else []


def release(name: str, version: str, **fields: Any) -> Release:
    return msgspec.structs.replace(DEMO, name=name, version=version, **fields)


INDEX = Index(
    (
        DEMO,
        release("demo", "2.0", api=">=2,<3"),
        release("asker", "1.0", permissions=Permissions(network=("api.partner.example",))),
        release("demo-lib", "1.9"),
        release("demo-lib", "2.1"),
        release("left", "1.0", plugins=(PluginNeed("demo-lib", "<2"),)),
        release("right", "1.0", plugins=(PluginNeed("demo-lib"),)),
        release("right", "2.0", plugins=(PluginNeed("demo-lib", ">=2"),)),
    )
)


class TeamNames:
    """A hook that one page tells of."""

    namespace, name, failure_policy = "shop", "shop/team-names", "closed"

    def call(self, manifest: Manifest) -> Manifest | Refusal:
        if manifest.kind != "NexusService" or not manifest.name.startswith(("orders", "team-")):
            return manifest
        wanted = manifest.name.startswith("team-")
        return manifest if wanted else Refusal("NameNotOfTeam", "The name has to begin with team-.")


def reasons_of(manifests: str) -> set[str]:
    resources, problems = parse_text(manifests, "page.yaml")
    hooks = [TeamNames()] if "NexusMarketplace" not in manifests and 'addresses: ["10.0.0.1:80"]' in manifests else []
    found = translate(resources, indexes={"official": INDEX}, manifest_hooks=hooks)
    return {p.reason for p in (*problems, *found.problems)}


FROM_MANIFESTS = sorted(r for r, info in REASONS.items() if info.condition in ("File", "Accepted", "ResolvedRefs"))


@pytest.mark.parametrize("reason", FROM_MANIFESTS)
def test_the_failing_yaml_fails_for_that_reason_and_the_working_one_works(reason: str) -> None:
    failing, working = list(blocks(reason, "This fails")), list(blocks(reason, "This works"))
    assert failing
    assert working
    for text in failing:
        assert reason in reasons_of(text)
    for text in working:
        assert not reasons_of(text)


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda p: p.stem)
def test_working_yaml_of_every_page_parses(page: Path) -> None:
    text = page.read_text("utf-8").partition("## This works")[2]
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        resources, problems = parse_text(block, page.name)
        assert not problems
        assert resources
        assert not [p for r in resources for p in r.problems]


def reasons_in(path: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = REASON_AT.get(name)
            given = [k.value for k in node.keywords if k.arg == "reason"]
            if at is not None and len(node.args) > at:
                given.append(node.args[at])
            for value in given:
                for constant in ast.walk(value):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        yield constant.value, node.lineno
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if getattr(target, "id", "") == "TITLES" and isinstance(node.value, ast.Dict):
                for key in node.value.keys:
                    if isinstance(key, ast.Constant):
                        yield str(key.value), node.lineno


def test_the_code_gives_no_reason_that_is_not_listed() -> None:
    unknown = []
    seen = set()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for reason, line in reasons_in(path):
                if not re.fullmatch(r"[A-Z][A-Za-z]+", reason) or reason in NOT_OURS:
                    continue
                seen.add(reason)
                if reason not in REASONS and reason not in HEALTHY | GATEWAY_API:
                    unknown.append(f"{path.relative_to(ROOT)}:{line}: {reason}")
    assert not unknown, "list them in nexus_core.problems.catalogue and write their pages:\n" + "\n".join(unknown)
    assert len(seen) > 30
