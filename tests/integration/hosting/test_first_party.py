"""The plugins that ship with Nexus load as everybody's do: with what their own manifests ask for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_hosting import claims, configuring
from nexus_hosting.importing import PluginCode
from nexus_hosting.unpacking import unpack
from nexus_marketplace.publishing import build_artefact

PACKAGES = sorted(path.parent for path in (Path(__file__).parents[3] / "plugins").glob("*/nexus_plugin_*/plugin.yaml"))
KEY = Ed25519PrivateKey.generate()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_it_loads_with_what_it_asks_for(package: Path) -> None:
    artefact = build_artefact(package, KEY, "nexus")
    release = artefact.release
    configuring.verify_python(release)
    configuring.verify_host(release)
    code = PluginCode(release, unpack(artefact.data, release.package), granted=release.permissions)
    try:
        claims.check(code.load(), release)
    finally:
        code.unload()


def test_there_are_some() -> None:
    assert len(PACKAGES) >= 2
