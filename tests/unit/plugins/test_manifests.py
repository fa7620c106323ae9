"""What every first-party plugin's package keeps: its manifest is exact, its imports are those that plugins may have, its page is whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from nexus_cli import manifests
from nexus_cli.offline import translate
from nexus_core.hooks import Plugin
from nexus_core.hooks.specs import BY_NAME
from nexus_hosting.modules import Rules
from nexus_hosting.reading import check
from nexus_marketplace.publishing import build_unsigned

ROOT = Path(__file__).parents[3] / "plugins"
PACKAGES = {
    path.parent.parent.name: path.parent
    for path in sorted(ROOT.glob("*/nexus_plugin_*/plugin.yaml"))
    if "hooks" in yaml.safe_load(path.read_text())
}


NEXUS = "nexus.dev/v1alpha1"


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
def test_it_can_be_published_and_imports_only_what_it_may(name: str) -> None:
    release = build_unsigned(PACKAGES[name], "me").release
    package = PACKAGES[name]
    files = {f"{package.name}/{path.relative_to(package)}": path.read_bytes() for path in package.rglob("*.py")}
    check(files, frozenset({package.name}), Rules(release.permissions.modules, release.host), name)


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


@pytest.mark.parametrize("name", PACKAGES)
def test_who_answers_or_reads_bodies_comes_after_those_who_check_clients(name: str) -> None:
    if not {"on_request", "on_request_body"} <= set(manifest_of(name)["hooks"]) and name not in ("mock", "audit-log"):
        return
    if name in ("csrf", "pii-mask"):
        return  # the one checks clients itself; the other refuses none, and answers none
    assert {"api-key", "basic-auth"} <= set(manifest_of(name)["after"]), "else it is its name that decides"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_example_on_its_page_is_valid(name: str, tmp_path: Path) -> None:
    text = (ROOT / name / "README.md").read_text()
    example = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    if name == "grpc-json":
        example["spec"]["config"]["descriptors"] = ""  # the reader's own
    names = {each["secretRef"]["name"] for each in example["spec"].get("configFrom", [])}
    names |= {each["secretRef"]["name"] for each in example["spec"].get("grants", {}).get("secrets", [])}
    keys = {"key", "secret", "token", "htpasswd", "api-key", "fallback-key", "chain-key", "http-token"}
    data = dict.fromkeys(keys, "s" * 64)
    service = {"type": "http", "process": {"command": ["true"], "port": 9001}, "expose": {"path": "/"}}
    shop = [
        yaml.safe_load((ROOT.parent / "examples" / "shop" / "marketplace.yaml").read_text()),
        example,
        *(_object("v1", "Secret", each, stringData=data) for each in sorted(names)),
        *(_object(NEXUS, "NexusService", each["name"], spec=service) for each in example["spec"].get("targetRefs", [])),
    ]
    (tmp_path / "shop.yaml").write_text("---\n".join(yaml.safe_dump(each) for each in shop))
    assert [f"{p.path} {p.what}" for p in translate(manifests.load([tmp_path])).problems] == []


def _object(version: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **rest}
