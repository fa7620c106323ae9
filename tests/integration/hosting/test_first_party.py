"""First-party plugins as a gateway starts them: built from their packages, with guarded imports, and only what they ask for granted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.snapshot import PluginInstance
from nexus_hosting.testing import keep
from nexus_marketplace.publishing import build_artefact, public_key

from tests.integration.hosting.conftest import Host

ROOT = Path(__file__).parents[3] / "plugins"
PACKAGES = {path.parent.parent.name: path.parent for path in sorted(ROOT.glob("*/nexus_plugin_*/plugin.yaml"))}


def config_on_the_page(name: str) -> dict[str, Any] | None:
    """Return the configuration of the page's manifest; None where a Secret has a part of it, or a program makes it."""
    for block in (ROOT / name / "README.md").read_text().split("```yaml\n")[1:]:
        for document in yaml.safe_load_all(block.partition("```")[0]):
            if document.get("kind") == "NexusPlugin":
                spec = document["spec"]
                made = "configFrom" in spec or "descriptors" in spec.get("config", {})
                return None if made else spec.get("config", {})
    raise AssertionError(f"plugins/{name}/README.md shows no NexusPlugin")


@pytest.mark.parametrize("name", [name for name in PACKAGES if config_on_the_page(name) is not None])
async def test_a_plugin_starts_as_its_page_says(name: str, host: Host) -> None:
    key = Ed25519PrivateKey.generate()
    built = build_artefact(PACKAGES[name], key, "me")
    assert keep(host.cache, built.data, "zip") == built.release.sha256
    instance = PluginInstance(
        id=f"shop/{name}", source=f"NexusPlugin/shop/{name}", release=built.release, public_key=public_key(key),
        config=json.dumps(config_on_the_page(name)), granted=built.release.permissions,
    )  # fmt: skip
    running = await host.start(instance)
    assert type(running.plugin).__name__ == built.release.entry_point.partition(":")[2]
