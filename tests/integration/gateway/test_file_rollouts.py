"""A gateway that reads manifests, from a signed directory to requests: installed, updated by a canary, and taken back by itself."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import Release, Wheel, WheelNeed
from nexus_gateway.app import Gateway
from nexus_gateway.edge.sources import indexes
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.locks import LocksFile
from nexus_gateway.edge.sources.workshop import Workshop
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.testing import Upstreams
from nexus_hosting.runtimes import runtime_digest
from nexus_marketplace.publishing import public_key
from nexus_marketplace.repository import Keys, Repository
from nexus_sdk.discovery.memory import MemoryDiscovery

KEY = Ed25519PrivateKey.generate()
CODE = """
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    def on_response(self, request, response):
        {fails}
        return response.with_header("x-demo", "{version} " + self.config["greeting"])
"""
WITHIN_S = 20.0
MANIFESTS = """
apiVersion: nexus.dev/v1alpha1
kind: NexusMarketplace
metadata: {{name: acme}}
spec: {{source: {{directory: "{market}"}}, publishers: [{{name: acme, publicKey: "{key}"}}]}}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusPlugin
metadata: {{name: demo, namespace: shop}}
spec:
  marketplace: acme
  canary: {{percent: 50, seconds: 0.3, minCalls: 4}}
  configFrom: [{{path: greeting, secretRef: {{name: words, key: hello}}}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: words, namespace: shop}}
stringData: {{hello: servus}}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {{name: orders, namespace: shop}}
spec: {{backend: {{addresses: ["127.0.0.1:{port}"]}}, expose: {{path: /}}}}
"""


class World:
    """A marketplace with artefacts, and a gateway beside it."""

    def __init__(self, folder: Path, client: ClientSession) -> None:
        self.folder, self.client = folder, client
        self.market, self.manifests = folder / "market", folder / "manifests"
        self.releases: list[Release] = []
        self.files: dict[str, bytes] = {}
        self.gateway: Gateway | None = None

    def publish(self, version: str, fails: str = "pass", **needs: Any) -> None:
        """needs: of the release, such as `python`."""
        data = build_zip(
            {"demo/__init__.py": b"", "demo/plugin.py": CODE.format(version=version, fails=fails).encode()}
        )
        digest = hashlib.sha256(data).hexdigest()
        release = Release(
            name="demo", version=version, api=needs.pop("api", ">=1.1,<2"), package="demo", entry_point="demo.plugin:Demo", sha256=digest,
            url=f"artefacts/{digest}.zip", publisher="acme", hooks=("on_response",), **needs,
        )  # fmt: skip
        signature = base64.b64encode(KEY.sign(signed_bytes(release))).decode()
        self.releases.append(msgspec.structs.replace(release, signature=signature))
        self.files[release.url] = data
        index = json.dumps({"version": 1, "releases": [msgspec.to_builtins(r) for r in self.releases]}).encode()
        Repository(self.market).publish(index, self.files, Keys.one(KEY), datetime.now(UTC))

    async def start(self) -> None:
        settings = GatewaySettings(
            listen="127.0.0.1:0", admin="127.0.0.1:0", access_log=False, plugin_cache=self.folder / "plugins"
        )
        locks = LocksFile(self.folder / "locks.json")
        source = FileSource(self.manifests, Workshop(self.folder / "indexes"), locks=locks, poll_s=0.02)
        self.gateway = Gateway(settings, source, MemoryDiscovery())
        await self.gateway.start()
        async with asyncio.timeout(WITHIN_S):
            await self.gateway.live()

    async def stop(self) -> None:
        if self.gateway is not None:
            await self.gateway.stop()
            self.gateway = None

    async def ask(self) -> tuple[int, str]:
        assert self.gateway is not None
        async with self.client.get(f"http://127.0.0.1:{self.gateway.port}/") as response:
            return response.status, response.headers.get("x-demo", "")

    async def ask_until(self, holds: Callable[[], bool]) -> set[tuple[int, str]]:
        """Ask all the time, as clients do; return all answers."""
        seen = set()
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                seen.add(await self.ask())
                await asyncio.sleep(0.005)
        return seen

    def locked(self) -> tuple[str, list[str]]:
        lock = LocksFile(self.folder / "locks.json").read().get("shop/demo")
        return ("", []) if lock is None else (lock.version, [r.version for r in lock.refused])


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(indexes, "FRESH_HERE_S", 0.2)
    upstreams = Upstreams()

    async def echo(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with ClientSession() as client:
        made = World(tmp_path, client)
        made.manifests.mkdir()
        port = await upstreams.start(echo)
        text = MANIFESTS.format(market=made.market, key=public_key(KEY), port=port)
        (made.manifests / "all.yaml").write_text(text)
        yield made
        await made.stop()
    await upstreams.close()


async def test_a_release_is_installed_updated_taken_back_and_there_again_offline(world: World) -> None:
    world.publish("1.0.0")
    await world.start()
    assert await world.ask_until(lambda: world.locked() == ("1.0.0", [])) <= {(200, "1.0.0 servus")}
    assert await world.ask() == (200, "1.0.0 servus")

    world.publish("1.1.0")
    seen = await world.ask_until(lambda: world.locked() == ("1.1.0", []))
    assert seen == {(200, "1.0.0 servus"), (200, "1.1.0 servus")}, "both served, and no request was lost"

    world.publish("1.2.0", fails="raise ZeroDivisionError")
    seen = await world.ask_until(lambda: world.locked() == ("1.1.0", ["1.2.0"]))
    assert {status for status, _ in seen} == {200}, "the failure policy lets requests pass"
    await world.stop()

    world.market.rename(world.folder / "away")
    await world.start()
    assert await world.ask() == (200, "1.1.0 servus")


async def test_a_first_install_is_the_newest_release_that_this_gateway_can_run(world: World) -> None:
    wheel = Wheel("other-1.0-cp399-cp399-sunos.whl", "0" * 64)
    world.publish("1.0.0")
    world.publish("1.1.0", host=("no-such-distribution>=1",))
    world.publish("1.2.0", wheels=(WheelNeed("other", "1.0", (wheel,)),))
    world.publish("1.3.0", python=">=3.99")
    world.publish("2.0.0", api=">=99")
    await world.start()
    seen = await world.ask_until(lambda: world.locked()[0] == "1.0.0")
    assert world.locked() == ("1.0.0", ["1.3.0", "1.2.0", "1.1.0"])
    assert (200, "1.0.0 servus") in {*seen, await world.ask()}
    lock = LocksFile(world.folder / "locks.json").read()["shop/demo"]
    assert [each.reason for each in lock.refused] == ["PythonIncompatible", "WheelInvalid", "HostRequirementMissing"]


async def test_what_this_gateway_could_not_run_is_tried_again_when_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish("1.0.0")
    world.publish("1.0.1", host=("nexus-test-distribution>=1",))
    world.publish("1.0.2", python=">=3.99")
    await world.start()
    await world.ask_until(lambda: world.locked() == ("1.0.0", ["1.0.2", "1.0.1"]))
    await world.stop()
    await world.start()
    await asyncio.sleep(0.5)
    assert world.locked() == ("1.0.0", ["1.0.2", "1.0.1"]), "nothing is another than before"
    await world.stop()

    # As `pip install` into its environment does it; plugins are judged in a process of their own.
    installed = world.folder / "installed"
    metadata = installed / "nexus_test_distribution-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: nexus-test-distribution\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.syspath_prepend(str(installed))
    runtime_digest.cache_clear()
    await world.start()
    await world.ask_until(lambda: world.locked() == ("1.0.1", ["1.0.2"]))
    gateway = world.gateway
    assert gateway is not None
    await world.ask_until(lambda: gateway.runtime.slots["shop/demo"].version == "1.0.1")
    assert await world.ask() == (200, "1.0.1 servus")
    runtime_digest.cache_clear()


@pytest.mark.parametrize(("said", "status"), [("failurePolicy: closed", 503), ("order: 0", 200)])
async def test_while_no_release_is_known_requests_are_refused_only_where_the_manifest_says_closed(
    world: World, said: str, status: int
) -> None:
    manifests = world.manifests / "all.yaml"
    manifests.write_text(manifests.read_text().replace("  canary:", f"  {said}\n  canary:"))
    await world.start()
    assert world.gateway is not None
    url = f"http://127.0.0.1:{world.gateway.port}/"
    async with world.client.get(url) as response:
        assert response.status == status
        if status == 503:
            assert (await response.json(content_type=None))["reason"] == "PluginUnavailable"
    slots = world.gateway.runtime.slots
    if status == 503:
        report = slots["shop/demo"].report
        assert (report.state, report.version, report.reason) == ("failed", "", "MarketplaceUnreachable")
        assert '"acme" could not be read' in report.message
    else:
        assert slots == {}
    assert world.locked() == ("", [])
    assert not list((world.folder / "plugins").rglob("*.zip")), "nothing is fetched"

    world.publish("1.0.0")
    seen = await world.ask_until(lambda: world.locked() == ("1.0.0", []))
    assert seen <= {(status, ""), (200, "1.0.0 servus")}, "until it is loaded, none gets past it that did not before"
    assert await world.ask() == (200, "1.0.0 servus")
