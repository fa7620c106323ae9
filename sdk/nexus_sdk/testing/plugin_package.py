"""What a plugin's plugin.yaml says, as far as it holds for its hooks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus_core.snapshot import PluginInstance
from nexus_hosting.configuring import read_config
from nexus_hosting.permits import Permits
from nexus_marketplace.manifests import read_manifest


class Declared:
    """A release that nobody has published, with all granted that it asks for.

    package_dir: the import package, with plugin.yaml in it. permits: which headers hooks see and write. Raises
    `nexus_marketplace.refusing.PublishRefused`, which names every bad field.
    """

    def __init__(self, package_dir: Path) -> None:
        self._release = read_manifest(package_dir, "test")
        self.permits = Permits(
            self._release.permissions,
            f"permissions.headers.write of {package_dir / 'plugin.yaml'} has none of that name",
        )

    def read_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration with the schema's defaults. Raises `nexus_marketplace.rejections.PluginRejected`, which
        says where and what is wrong."""
        return read_config(
            PluginInstance(
                id="test", source="test", release=self._release, public_key="", config=json.dumps(dict(config))
            )
        )
