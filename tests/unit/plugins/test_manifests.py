"""What every first-party plugin's package keeps: its manifest is exact, its imports are those that plugins may have, its page is whole."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from nexus_core.hooks import Plugin
from nexus_core.hooks.specs import BY_NAME

ROOT = Path(__file__).parents[3] / "plugins"
PACKAGES = {
    path.parent.parent.name: path.parent
    for path in sorted(ROOT.glob("*/nexus_plugin_*/plugin.yaml"))
    if "hooks" in yaml.safe_load(path.read_text())
}
# What the gateway lets plugins import without asking.
FREE = frozenset(
    {
        "__future__", "abc", "array", "asyncio", "base64", "binascii", "bisect", "bz2", "calendar", "cmath", "collections",
        "contextlib", "contextvars", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "email", "enum", "fnmatch",
        "fractions", "functools", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "http", "io", "ipaddress", "itertools",
        "json", "logging", "lzma", "math", "mimetypes", "numbers", "operator", "pprint", "random", "re", "reprlib", "secrets",
        "statistics", "string", "struct", "textwrap", "time", "traceback", "types", "typing", "unicodedata", "urllib", "uuid",
        "warnings", "weakref", "zlib", "zoneinfo",
    }
)  # fmt: skip


def manifest_of(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((PACKAGES[name] / "plugin.yaml").read_text())
    return manifest


@pytest.mark.parametrize("name", PACKAGES)
def test_hooks_in_the_manifest_are_those_that_the_class_overrides(name: str) -> None:
    manifest = manifest_of(name)
    module, _, attribute = manifest["entryPoint"].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    overridden = sorted(hook for hook in BY_NAME if getattr(kind, hook) is not getattr(Plugin, hook))
    assert manifest["hooks"] == overridden


@pytest.mark.parametrize("name", PACKAGES)
def test_the_manifest_says_what_people_look_for(name: str) -> None:
    manifest = manifest_of(name)
    assert manifest["name"] == name
    assert {
        "version",
        "api",
        "python",
        "summary",
        "failurePolicy",
        "permissions",
        "licence",
        "changelog",
    } <= manifest.keys()
    assert manifest["homepage"].endswith(f"/plugins/{name}")
    asked = manifest["permissions"]
    assert asked.keys() <= {"network", "services", "secrets", "headers", "consul", "modules", "nativeCode"}
    for names in asked.get("headers", {}).values():
        assert names == sorted({each.lower() for each in names}), "lower-case, sorted, once each"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_configuration_schema_is_valid_strict_and_described(name: str) -> None:
    schema = manifest_of(name)["configSchema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    _check_described(schema, name)


def _check_described(schema: dict[str, Any], where: str) -> None:
    if schema.get("type") == "object" and "properties" in schema:
        assert schema.get("additionalProperties") is False, f"{where} takes what it does not know"
        for each, inner in schema["properties"].items():
            assert inner.get("description"), f"{where}.{each} has no description"
            _check_described(inner, f"{where}.{each}")
    if isinstance(schema.get("items"), dict):
        _check_described(schema["items"], f"{where}[]")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_page_names_every_setting(name: str) -> None:
    page = (ROOT / name / "README.md").read_text()
    for setting in manifest_of(name)["configSchema"].get("properties", {}):
        assert f"`{setting}" in page, f"plugins/{name}/README.md does not say what `{setting}` is"


@pytest.mark.parametrize("name", PACKAGES)
def test_imports_are_those_that_plugins_may_have(name: str) -> None:
    manifest = manifest_of(name)
    granted = {each.partition(".")[0] for each in manifest["permissions"].get("modules", [])}
    host = {_module_of(each) for each in manifest.get("host", [])}
    wheels = {_module_of(each["name"]) for each in manifest.get("wheels", [])}
    for path in PACKAGES[name].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                top = module.partition(".")[0]
                assert module == "nexus_sdk.plugin" or top in FREE | granted | host | wheels, (
                    f"{path.name} imports {module}"
                )


def _module_of(requirement: str) -> str:
    name = requirement
    for mark in "<>=!~[; ":
        name = name.partition(mark)[0]
    return {"protobuf": "google", "sentry-sdk": "sentry_sdk", "pyyaml": "yaml"}.get(
        name.lower(), name.lower().replace("-", "_")
    )


@pytest.mark.parametrize("name", PACKAGES)
def test_the_example_on_the_page_is_a_manifest_that_its_schema_takes(name: str) -> None:
    blocks = (ROOT / name / "README.md").read_text().split("```yaml\n")[1:]
    assert blocks, f"plugins/{name}/README.md shows no manifest"
    for block in blocks:
        for document in yaml.safe_load_all(block.partition("```")[0]):
            if document.get("kind") != "NexusPlugin":
                continue
            assert document["spec"].get("marketplace") == "official"
            if "configFrom" in document["spec"]:
                continue  # what the Secret holds is not in the manifest
            jsonschema.Draft202012Validator(manifest_of(name)["configSchema"]).validate(
                document["spec"].get("config", {})
            )
