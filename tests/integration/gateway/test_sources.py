"""Snapshots from a real Consul and from files: changes, faults, restarts."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from aiohttp import ClientResponseError, ClientSession, web
from nexus_core.marketplace.locks import Lock
from nexus_core.snapshot import Ack, Discovered, Published, Snapshot, Upstream, wire
from nexus_gateway.app import Gateway
from nexus_gateway.edge.sources import files
from nexus_gateway.edge.sources.consul import ConsulSource
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.making import Fingerprint, Made, MakerGone
from nexus_gateway.edge.sources.workshop import Workshop
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.testing import Upstreams, route, rule, snapshot, until, upstream
from nexus_sdk.discovery.consul import ConsulDiscovery
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

connected = [pytest.mark.connected, pytest.mark.timeout(120)]
WITHIN_S = 30.0


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[LocalConsul]:
    async with LocalConsul(components.ensure(["consul"])["consul"], tmp_path) as made:
        yield made


async def put(consul: LocalConsul, key: str, value: bytes) -> None:
    async with ClientSession() as session, session.put(f"{consul.url}/v1/kv/{key}", data=value) as response:
        assert response.status == 200


async def publish(consul: LocalConsul, content: Snapshot, generation: int) -> wire.Encoded:
    encoded = wire.encode(content)
    for digest, chunk in encoded.chunks.items():
        await put(consul, wire.chunk_key(digest), chunk)
    await put(consul, wire.manifest_key(), wire.manifest_bytes(encoded, generation))
    return encoded


async def read_ack(consul: LocalConsul, replica: str = "one") -> Ack | None:
    try:
        found: Any = await consul.request("GET", f"/v1/kv/{wire.ack_key(replica)}")
    except ClientResponseError as error:
        if error.status != 404:
            raise
        return None
    return wire.decode_ack(base64.b64decode(found[0]["Value"]))


async def wait_ack(consul: LocalConsul, generation: int) -> Ack:
    found: list[Ack] = []

    async def there() -> bool:
        ack = await read_ack(consul)
        found[:] = [ack] if ack is not None and ack.generation == generation else []
        return bool(found)

    await until(there, WITHIN_S)
    return found[0]


def some(path: str) -> Snapshot:
    return snapshot(route(rule("shop/orders", path=path)), upstream(8000))


def source(consul: LocalConsul, tmp_path: Path) -> ConsulSource:
    return ConsulSource(consul.url, "", "nexus", "one", tmp_path / "state")


async def following(watch: AsyncIterator[Published]) -> Published:
    async with asyncio.timeout(WITHIN_S):
        return await anext(watch)


class TestConsul:
    pytestmark = connected

    async def test_snapshots_arrive_as_they_are_published(self, consul: LocalConsul, tmp_path: Path) -> None:
        here = source(consul, tmp_path)
        watch = here.watch()
        waiting = asyncio.create_task(following(watch))
        await asyncio.sleep(0.1)
        await publish(consul, some("/a"), 1)
        first = await waiting
        assert (first.generation, first.snapshot) == (1, some("/a"))
        encoded = await publish(consul, some("/b"), 2)
        second = await following(watch)
        assert (second.generation, second.digest, second.snapshot) == (2, encoded.digest, some("/b"))
        await watch.aclose()
        await here.close()

    async def test_damage_keeps_the_last_good_snapshot_until_a_good_one_comes(
        self, consul: LocalConsul, tmp_path: Path
    ) -> None:
        here = source(consul, tmp_path)
        watch = here.watch()
        await publish(consul, some("/a"), 1)
        await following(watch)
        for damage in (b"{", b'{"version": 9}', wire.manifest_bytes(wire.encode(some("/missing")), 2)):
            waiting = asyncio.create_task(following(watch))
            here.trouble = ""
            await put(consul, wire.manifest_key(), damage)
            await until(lambda: here.trouble, WITHIN_S)
            assert not waiting.done()
            await publish(consul, some(f"/good{len(damage)}"), 3)
            assert (await waiting).snapshot == some(f"/good{len(damage)}")
        await watch.aclose()
        await here.close()

    async def test_a_gateway_started_while_consul_is_away_serves_what_it_kept(
        self, consul: LocalConsul, tmp_path: Path
    ) -> None:
        here = source(consul, tmp_path)
        watch = here.watch()
        await publish(consul, some("/a"), 7)
        await following(watch)
        await watch.aclose()
        await here.close()
        await consul.kill()
        again = source(consul, tmp_path)
        watch = again.watch()
        kept = await following(watch)
        assert (kept.generation, kept.snapshot) == (7, some("/a"))
        waiting = asyncio.create_task(following(watch))
        await consul.start()  # with all its data lost
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await publish(consul, some("/b"), 1)  # the operator begins anew
        assert (await waiting).snapshot == some("/b")
        await watch.aclose()
        await again.close()

    async def test_the_ack_lives_as_long_as_the_replica_and_survives_a_lost_consul(
        self, consul: LocalConsul, tmp_path: Path
    ) -> None:
        here = source(consul, tmp_path)
        await here.ack(Ack("one", 1, "d1"))
        assert (await wait_ack(consul, 1)).digest == "d1"
        await here.ack(Ack("one", 2, "d2"))
        await wait_ack(consul, 2)
        await consul.kill()
        await here.ack(Ack("one", 3, "d3"))
        await consul.start()
        await wait_ack(consul, 3)
        (session,) = await consul.request("GET", "/v1/session/list")
        assert (session["TTL"], session["Behavior"]) == ("15s", "delete")
        await here.close()
        assert await read_ack(consul) is None

    async def test_a_gateway_on_consul_outlives_its_loss(self, consul: LocalConsul, tmp_path: Path) -> None:
        """Snapshot, endpoints and ack through one Consul; requests go on while it is away and after it lost everything."""

        async def answer(request: web.Request) -> web.Response:
            return web.Response(text="ok")

        upstreams = Upstreams()
        port = await upstreams.start(answer)
        service = {"Name": "orders.shop", "ID": "o1", "Address": "127.0.0.1", "Port": port}
        found = Upstream("shop/orders", "NexusService shop/orders", Discovered("orders.shop"))
        discovery = ConsulDiscovery(consul.url)
        settings = GatewaySettings(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            replica="one",
            access_log=False,
            plugin_cache=tmp_path / "plugins",
        )
        gateway = Gateway(settings, source(consul, tmp_path), discovery)
        await gateway.start()
        await consul.request("PUT", "/v1/agent/service/register", service)
        await publish(consul, snapshot(route(rule("shop/orders")), found), 1)
        async with asyncio.timeout(WITHIN_S):
            await gateway.live()
        await wait_ack(consul, 1)
        async with ClientSession() as client:

            async def ask() -> str:
                async with client.get(f"http://127.0.0.1:{gateway.port}/") as response:
                    assert response.status == 200
                    return await response.text()

            assert await ask() == "ok"
            await consul.kill()
            assert await ask() == "ok"
            await consul.start()
            assert await ask() == "ok"
            await consul.request("PUT", "/v1/agent/service/register", service)
            await publish(consul, snapshot(route(rule("shop/orders")), found), 1)
            await wait_ack(consul, 1)
            assert await ask() == "ok"
        await gateway.stop(1.0)
        await discovery.close()
        await upstreams.close()


GOOD = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: NAME, namespace: shop}
spec: {type: http, backend: {addresses: ["127.0.0.1:9000"]}, expose: {path: /NAME}}
"""


def write(folder: Path, name: str, text: str | None = None) -> None:
    (folder / f"{name}.yaml").write_text(GOOD.replace("NAME", name) if text is None else text)


def paths_of(published: Published) -> set[str]:
    return {match.path for route in published.snapshot.routes for rule in route.rules for match in rule.matches}


class Patient(Workshop):
    """Makes nothing until it may. fails: how many calls end at once without anything made."""

    def __init__(self, cache: Path, *, fails: int = 0) -> None:
        super().__init__(cache)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self._fails = fails

    async def make(self, found: Fingerprint, locks: Mapping[str, Lock] = MappingProxyType({})) -> Made:
        if self._fails:
            self._fails -= 1
            raise MakerGone("it is not well")
        self.asked.set()
        await self.go_on.wait()
        self.go_on.clear()
        return await super().make(found, locks)


class TestFiles:
    async def test_changes_are_followed_and_broken_edits_cost_only_themselves(self, tmp_path: Path) -> None:
        folder = tmp_path / "manifests"
        folder.mkdir()
        write(folder, "orders")
        here = FileSource(folder, Workshop(tmp_path / "cache"), poll_s=0.05)
        watch = here.watch()
        first = await following(watch)
        assert (first.generation, paths_of(first), here.problems) == (1, {"/orders"}, ())
        write(folder, "catalog")
        second = await following(watch)
        assert (second.generation, paths_of(second)) == (2, {"/orders", "/catalog"})
        write(folder, "orders", "a: [")  # not YAML
        waiting = asyncio.create_task(following(watch))
        await self._problem(here, "InvalidYaml")
        write(folder, "catalog", GOOD.replace("NAME", "catalog").replace("type: http", "type: nonsense"))
        await self._problem(here, "InvalidSpec")
        assert not waiting.done(), "neither broken edit changes what is served"
        write(folder, "third")
        assert paths_of(await waiting) == {"/orders", "/catalog", "/third"}
        write(folder, "orders")
        write(folder, "catalog", GOOD.replace("NAME", "catalog").replace("path: /catalog", "path: /new"))
        assert paths_of(await following(watch)) == {"/orders", "/new", "/third"}
        assert here.problems == ()
        (folder / "third.yaml").unlink()
        assert paths_of(await following(watch)) == {"/orders", "/new"}
        await here.close()
        with pytest.raises(StopAsyncIteration):
            await following(watch)

    async def _problem(self, here: FileSource, reason: str) -> None:
        await until(lambda: reason in {problem.reason for problem in here.problems})

    async def test_a_missing_directory_is_a_problem_until_it_is_there(self, tmp_path: Path) -> None:
        folder = tmp_path / "later"
        here = FileSource(folder, Workshop(tmp_path / "cache"), poll_s=0.05)
        watch = here.watch()
        waiting = asyncio.create_task(following(watch))
        await self._problem(here, "InvalidManifest")
        folder.mkdir()
        write(folder, "orders")
        assert paths_of(await waiting) == {"/orders"}
        await here.close()
        await watch.aclose()

    async def test_reading_that_takes_long_is_told_in_one_line(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The maker ends only after it was told, or at once where nothing is to be."""
        caplog.set_level(logging.INFO, "nexus.gateway.files")
        write(tmp_path, "orders")
        maker = Patient(tmp_path / "cache")
        here = FileSource(tmp_path, maker, poll_s=0.05, slow_s=0.0)
        watch = here.watch()
        for lines in (["reading the manifests…"], ["reading the changed manifests…"]):
            caplog.clear()
            waiting = asyncio.create_task(following(watch))
            await until(lambda: bool(caplog.messages))
            maker.go_on.set()
            await waiting
            assert caplog.messages == lines
            write(tmp_path, "catalog")
        await here.close()
        await watch.aclose()

    async def test_nothing_is_told_of_a_reading_that_is_over(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first one fails at once; the second begins after the time at which the first would have been told."""
        caplog.set_level(logging.INFO, "nexus.gateway.files")
        monkeypatch.setattr(files, "AGAIN_S", 0.3)
        write(tmp_path, "orders")
        maker = Patient(tmp_path / "cache", fails=1)
        here = FileSource(tmp_path, maker, poll_s=0.05, slow_s=0.1)
        watch = here.watch()
        waiting = asyncio.create_task(following(watch))
        await maker.asked.wait()
        assert [line for line in caplog.messages if "could not be read" not in line] == []
        maker.go_on.set()
        await waiting
        await here.close()
        await watch.aclose()

    async def test_the_bundled_marketplace_is_there_without_a_network(self, tmp_path: Path) -> None:
        write(tmp_path, "orders")
        key = (Path(__file__).parents[3] / "plugins/index/nexus_plugins/publisher.pub").read_text().strip()
        write(
            tmp_path,
            "plugins",
            f"""
apiVersion: nexus.dev/v1alpha1
kind: NexusMarketplace
metadata: {{name: official}}
spec: {{source: {{bundled: true}}, publishers: [{{name: nexus, publicKey: "{key}"}}]}}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusPlugin
metadata: {{name: request-id, namespace: shop}}
spec: {{marketplace: official, version: ">=1,<2"}}
""",
        )
        here = FileSource(tmp_path, Workshop(tmp_path / "cache"), poll_s=0.05)
        watch = here.watch()
        published = await following(watch)
        assert here.problems == ()
        (plugin,) = published.snapshot.plugins
        assert (plugin.id, plugin.release.name, plugin.public_key) == ("shop/request-id", "request-id", key)
        await here.close()
        await watch.aclose()


@pytest.mark.parametrize(
    ("body", "index"),
    [(b"<html>", "5"), (b"null", "5"), (b"[1]", "5"), (b'{"a": 1}', "5"), (b'[{"Value": 1}]', "5"), (b"[]", "zz")],
)
async def test_what_is_no_answer_of_consul_is_a_trouble_and_ends_no_watch(body: bytes, index: str) -> None:
    """A proxy's error page, or an agent that has lost its mind."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"X-Consul-Index": index})

    upstreams = Upstreams()
    broken = ConsulSource(f"http://127.0.0.1:{await upstreams.start(answer)}", "", "nexus", "one", None)
    watching = asyncio.ensure_future(anext(broken.watch()))
    try:
        await until(lambda: watching.done() or broken.trouble)
        assert not watching.done()
        assert "127.0.0.1" in broken.trouble
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await broken.close()
        await upstreams.close()
