"""The hooks' specs, the base class, the reference page and the tests say the same."""

import inspect
import re
from pathlib import Path

import pytest
from nexus_core.hooks import API_VERSION, Plugin
from nexus_core.hooks.reference import render
from nexus_core.hooks.specs import ASKING, HOOKS, HookSpec

ROOT = Path(__file__).parents[3]
each_hook = pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)


def test_the_base_class_has_the_hooks_of_the_specs_and_no_others() -> None:
    methods = {name for name, _ in inspect.getmembers(Plugin, inspect.isfunction) if not name.startswith("_")}
    assert methods == {hook.name for hook in HOOKS} | ASKING


@each_hook
def test_a_hook_takes_the_arguments_of_its_spec(hook: HookSpec) -> None:
    parameters = inspect.signature(getattr(Plugin, hook.name)).parameters
    found = tuple((name, str(p.annotation)) for name, p in parameters.items() if name != "self")
    assert found == hook.arguments


@each_hook
def test_a_hook_returns_what_its_spec_says(hook: HookSpec) -> None:
    annotation = str(inspect.signature(getattr(Plugin, hook.name)).return_annotation)
    waits = "Awaitable[" in annotation or inspect.iscoroutinefunction(getattr(Plugin, hook.name))
    assert waits is hook.awaits
    for kind in hook.returns:
        assert kind in annotation


@each_hook
def test_a_hook_has_a_docstring_and_a_section_of_the_reference(hook: HookSpec) -> None:
    assert getattr(Plugin, hook.name).__doc__
    page = (ROOT / "docs" / "reference" / "hooks.md").read_text()
    section = page.partition(f"\n## `{hook.name}`\n")[2].partition("\n## ")[0]
    for text in (hook.when, hook.result, hook.budget, hook.open, hook.closed, f"{hook.name}(self"):
        assert text in section


def test_the_reference_is_up_to_date() -> None:
    page = (ROOT / "docs" / "reference" / "hooks.md").read_text()
    assert page == render()
    assert f"API version {API_VERSION}" in page


@each_hook
def test_a_hook_is_tested_where_it_runs_and_by_the_kit(hook: HookSpec) -> None:
    definition = re.compile(rf"def {hook.name}\(self")
    where = [p for p in (ROOT / "tests" / "integration").rglob("*.py") if definition.search(p.read_text())]
    assert where, f"no test of tests/integration runs a plugin with {hook.name}"
    assert definition.search((ROOT / "tests" / "unit" / "sdk" / "test_plugin_kit_hooks.py").read_text())
