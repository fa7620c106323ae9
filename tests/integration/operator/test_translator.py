"""From objects of the inventory to a translation, with a signed marketplace in a directory and a plugin that changes manifests."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_marketplace.publishing import Artefact, build_artefact, build_index, public_key
from nexus_marketplace.repository import Keys, Repository
from nexus_operator.edge import indexes
from nexus_operator.edge.artefacts import ArtefactMirror
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.indexes import Indexes
from nexus_operator.edge.kube import KubeApi
from nexus_operator.edge.markets import read_config_map
from nexus_operator.edge.translator import Translator
from nexus_operator.settings import Settings
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED

KEY = Ed25519PrivateKey.generate()
CODE = """
from nexus_sdk.plugin import Manifest, Plugin, Refusal


class Prefix(Plugin):
    def on_manifest(self, manifest: Manifest) -> Manifest | Refusal:
        if manifest.kind != "NexusService":
            return manifest
        expose = {**manifest.spec.get("expose", {}), "path": "/VERSION" + manifest.spec["expose"]["path"]}
        return manifest.with_spec({**manifest.spec, "expose": expose})
"""


class World:
    """One marketplace, one plugin, one service."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.market = tmp_path / "market"
        self.artefacts: list[Artefact] = []
        self.publish("1.0.0")
        self.inventory = Inventory(kind.kind for kind in WATCHED)
        for kind in WATCHED:
            self.inventory.replace(kind.kind, (), 1)
        self.number = 1
        self.put("NexusMarketplace", "acme", {
            "source": {"directory": str(self.market)}, "publishers": [{"name": "acme", "publicKey": public_key(KEY)}],
        }, namespace="")  # fmt: skip
        self.put("NexusPlugin", "prefix", {"marketplace": "acme", "canary": {"seconds": 0}})
        self.put("NexusService", "web", {"backend": {"addresses": ["10.0.0.1:80"]}, "expose": {"path": "/web"}})
        self.settings = Settings(consul_url="http://consul:8500", seal_key=bytes(32), state_dir=str(tmp_path / "state"))
        self.news = asyncio.Event()
        self.indexes = Indexes(
            ttl_s=0.05,
            state=tmp_path / "state",
            changed=self.news.set,
            configmap=lambda namespace, name: read_config_map(self.inventory, namespace, name),
        )
        consul: ConsulApi = None  # type: ignore[assignment]  # nothing is published
        mirror = ArtefactMirror(consul, "nexus", self.indexes, tmp_path / "state" / "artefacts")
        kube: KubeApi = None  # type: ignore[assignment]  # no Secret is named
        self.translator = Translator(self.settings, kube, self.inventory, self.indexes, mirror.obtain)

    def publish(self, version: str) -> None:
        package = self.tmp_path / version / "acme_prefix"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(CODE.replace("VERSION", version))
        manifest = {
            "name": "prefix", "version": version, "api": ">=1.1,<2", "entryPoint": "acme_prefix.plugin:Prefix",
            "summary": "Puts a prefix before paths.", "failurePolicy": "closed", "hooks": ["on_manifest"],
            "configSchema": {"type": "object", "additionalProperties": False},
        }  # fmt: skip
        (package / "plugin.yaml").write_text(yaml.safe_dump(manifest))
        self.artefacts.append(build_artefact(package, KEY, "acme"))
        files = {f"artefacts/{each.release.sha256}.zip": each.data for each in self.artefacts}
        Repository(self.market).publish(build_index(self.artefacts), files, Keys.one(KEY), datetime.now(UTC))

    def put(self, kind: str, name: str, spec: dict[str, Any], namespace: str = "shop") -> None:
        self.number += 1
        meta = {"name": name, "uid": name, "resourceVersion": str(self.number), "generation": self.number}
        self.inventory.observe(kind, {
            "apiVersion": "nexus.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {**meta, **({"namespace": namespace} if namespace else {})},
        })  # fmt: skip

    def move_into_config_map(self) -> None:
        files = {
            path.relative_to(self.market).as_posix().replace("/", "__"): base64.b64encode(path.read_bytes()).decode()
            for path in self.market.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        shutil.rmtree(self.market)
        spec = {
            "source": {"configMap": {"namespace": "shop", "name": "files"}},
            "publishers": [{"name": "acme", "publicKey": public_key(KEY)}],
        }
        self.put("NexusMarketplace", "acme", spec, namespace="")
        meta = {"name": "files", "namespace": "shop", "uid": "f", "resourceVersion": "9"}
        held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": files}
        self.inventory.name({("ConfigMap", "shop", "files"): None})
        self.inventory.observe("ConfigMap", held)

    async def paths(self) -> dict[str, str]:
        done = await self.translator.translate({}, previous=None, sealer=None, locks={})
        assert not self.translator.hooks.problems
        return {each.ref.name: each.path for each in done.translation.services}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(indexes, "FIRST_WAIT_S", 20.0)
    found = World(tmp_path)
    yield found
    await found.translator.close()
    await found.indexes.close()


async def test_the_first_translation_has_the_hooks_of_its_own_plugins(world: World) -> None:
    """Nothing is published that the plugin has not seen."""
    assert await world.paths() == {"web": "/1.0.0/web"}


async def test_a_new_object_is_asked_about_and_a_plugin_that_goes_asks_no_more(world: World) -> None:
    await world.paths()
    world.put("NexusService", "more", {"backend": {"addresses": ["10.0.0.2:80"]}, "expose": {"path": "/more"}})
    assert await world.paths() == {"web": "/1.0.0/web", "more": "/1.0.0/more"}
    world.put("NexusPlugin", "prefix", {"marketplace": "acme", "enabled": False})
    assert await world.paths() == {"web": "/web", "more": "/more"}


async def test_another_release_is_another_hook(world: World) -> None:
    await world.paths()
    world.news.clear()
    world.publish("1.1.0")
    async with asyncio.timeout(20):
        await world.news.wait()
    assert await world.paths() == {"web": "/1.1.0/web"}


async def test_a_version_that_is_asked_for_is_looked_for_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "ASKED_S", 0.0)
    world.indexes._ttl_s = 3600.0
    await world.paths()
    world.news.clear()
    world.publish("1.1.0")
    world.put("NexusPlugin", "prefix", {"marketplace": "acme", "version": "==1.1.0", "canary": {"seconds": 0}})
    await world.paths()
    async with asyncio.timeout(20):
        await world.news.wait()
    assert await world.paths() == {"web": "/1.1.0/web"}


async def test_a_plugin_in_a_config_map_hooks_from_the_start(world: World) -> None:
    """Its process reads no ConfigMap: the operator gives it the files."""
    world.move_into_config_map()
    assert await world.paths() == {"web": "/1.0.0/web"}


async def test_a_plugin_whose_spec_cannot_be_read_is_not_switched_off(world: World) -> None:
    """Nobody said so: it would be told as its owner's wish."""
    world.put("NexusPlugin", "odd", {"version": ">=1.0.*"})
    world.put("NexusPlugin", "odd-and-off", {"version": ">=1.0.*", "enabled": False})
    done = await world.translator.translate({}, previous=None, sealer=None, locks={})
    assert {each.ref.name: each.enabled for each in done.translation.plugins} == {
        "odd": True, "odd-and-off": False, "prefix": True,
    }  # fmt: skip
