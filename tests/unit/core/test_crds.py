"""The CRDs: what is checked in is what the models say; the examples get the same answer here as from the API server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nexus_core.model.crds import build_crds, file_name, to_yaml
from nexus_core.model.crds.reference import build_reference
from nexus_core.model.load import parse_text

ROOT = Path(__file__).parents[3]
CRDS = ROOT / "crds"
ALLOWED = {
    "type", "description", "format", "enum", "default", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "required",
    "properties", "items", "additionalProperties", "anyOf", "x-kubernetes-int-or-string", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, crd in build_crds().items():
        yield from nodes(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], kind)


def test_the_checked_in_crds_are_what_the_models_say() -> None:
    wanted = {file_name(crd): to_yaml(crd) for crd in build_crds().values()}
    assert {p.name: p.read_text("utf-8") for p in CRDS.glob("*.yaml")} == wanted, "run: make generate"


def test_the_reference_page_is_what_the_models_say() -> None:
    assert (ROOT / "docs/reference/crds.md").read_text("utf-8") == build_reference(), "run: make generate"


def test_the_command_tells_what_is_out_of_date_and_writes_it(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nexus_core.model.crds", str(tmp_path), *args]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    (tmp_path / "old.yaml").write_text("left over")
    found = run("--check")
    assert found.returncode == 1
    assert found.stderr.count("out of date") == 6
    assert run().returncode == 0
    assert run("--check").returncode == 0
    assert not (tmp_path / "old.yaml").exists()


def test_every_schema_is_structural() -> None:
    for path, schema in schemas():
        assert set(schema) <= ALLOWED, path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        if schema.get("type") == "array":
            assert "items" in schema, path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        if schema.get("x-kubernetes-list-type") == "map":
            keys = schema["x-kubernetes-list-map-keys"]
            assert set(keys) <= set(schema["items"]["required"]), path


def test_minimums_of_numbers_are_whole() -> None:
    """The API server compares a whole number with the whole part of a minimum: it would take 0 for 0.05."""
    minimums = [
        (path, schema["minimum"])
        for path, schema in schemas()
        if schema.get("type") == "number" and "minimum" in schema
    ]
    assert minimums
    assert [(path, minimum) for path, minimum in minimums if minimum != int(minimum)] == []


def test_every_field_is_explained() -> None:
    for path, schema in schemas():
        for name, field in schema.get("properties", {}).items():
            if not (name == "metadata" or path.endswith(".metadata")):
                assert field.get("description", "").endswith((".", "?")), f"{path}.{name}"


def test_what_rules_look_at_is_bounded() -> None:
    """CEL has a cost budget: the API server refuses rules over lists and strings that have no bound."""
    for path, schema in schemas():
        if path.startswith("NexusService.spec") or ".spec" in path:
            if schema.get("type") == "array":
                assert "maxItems" in schema, path
            if schema.get("type") == "string" and "enum" not in schema:
                assert "maxLength" in schema, path
            if "additionalProperties" in schema:
                assert "maxProperties" in schema, path


def test_rules_say_what_is_wrong_and_what_to_do() -> None:
    seen = 0
    for path, schema in schemas():
        for rule in schema.get("x-kubernetes-validations", ()):
            seen += 1
            assert re.fullmatch(r"[A-Za-z].+?\. [A-Z].+\.", rule["message"]), (path, rule["message"])
            assert len(rule["message"]) < 2048
    assert seen > 15


@pytest.mark.parametrize("path", sorted((CRDS / "examples/valid").glob("*.yaml")), ids=lambda p: p.stem)
def test_valid_examples_are_accepted(path: Path) -> None:
    (resource,), problems = parse_text(path.read_text("utf-8"), path.name)
    assert not problems
    assert not resource.problems
    assert resource.spec is not None


@pytest.mark.parametrize("path", sorted((CRDS / "examples/invalid").glob("*.yaml")), ids=lambda p: p.stem)
def test_invalid_examples_get_the_answer_in_their_first_line(path: Path) -> None:
    text = path.read_text("utf-8")
    message = text.splitlines()[0].removeprefix("# ")
    (resource,), problems = parse_text(text, path.name)
    assert not problems
    assert resource.spec is None
    assert any(message in f"{p.what} {p.fix}" for p in resource.problems), [str(p) for p in resource.problems]


def test_every_rule_has_an_invalid_example() -> None:
    messages = {rule["message"] for _, schema in schemas() for rule in schema.get("x-kubernetes-validations", ())}
    shown = {
        p.read_text("utf-8").splitlines()[0].removeprefix("# ") for p in (CRDS / "examples/invalid").glob("*.yaml")
    }
    assert messages <= shown, messages - shown


def test_defaults_in_the_crds_are_the_models_defaults() -> None:
    """An object with nothing optional, defaulted by the API server, parses to what it parsed to before."""
    for path in sorted((CRDS / "examples/valid").glob("*.yaml")):
        manifest = yaml.safe_load(path.read_text("utf-8"))
        schema = build_crds()[manifest["kind"]]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        (before,), _ = parse_text(yaml.safe_dump(manifest), "x")
        apply_defaults(manifest["spec"], schema["properties"]["spec"])
        (after,), _ = parse_text(yaml.safe_dump(manifest), "x")
        assert before.spec == after.spec, path.name


def test_no_default_holds_a_null() -> None:
    """The API server refuses such a definition as a whole."""
    for where, node in schemas():
        assert "null" not in json.dumps(node.get("default", "")), where


def apply_defaults(value: Any, schema: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if "default" in field:
                value.setdefault(name, field["default"])
            if name in value:
                apply_defaults(value[name], field)
    elif isinstance(value, list):
        for item in value:
            apply_defaults(item, schema["items"])
