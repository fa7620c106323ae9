"""Plugins of manifests in files: a signed marketplace is followed, new releases prove themselves, and that is remembered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import encode_basic_auth, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace.locks import Lock
from nexus_core.snapshot import Ack, PluginInstance, Published, Release
from nexus_core.snapshot.acks import CandidateReport, PluginReport
from nexus_gateway.edge.sources import indexes, prefetching
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.locks import LocksFile
from nexus_gateway.edge.sources.making import Maker
from nexus_gateway.edge.sources.remote import RemoteWorkshop
from nexus_gateway.edge.sources.workshop import Workshop
from nexus_gateway.testing import until
from nexus_marketplace.publishing import public_key
from nexus_marketplace.repository import Keys, Repository

KEY = Ed25519PrivateKey.generate()


def release(version: str) -> Release:
    return Release(
        name="demo", version=version, api=">=1,<2", package="demo", entry_point="demo:P", sha256=version[0] * 64,
        url=f"artefacts/{version}.zip", publisher="acme", signature="c2ln",
    )  # fmt: skip


def publish(directory: Path, *versions: str, key: Ed25519PrivateKey = KEY, at: datetime | None = None) -> None:
    releases = [msgspec.to_builtins(release(version)) for version in versions]
    index = json.dumps({"version": 1, "releases": releases}).encode()
    Repository(directory).publish(index, {}, Keys.one(key), at or datetime.now(UTC))


class Watched:
    """A source that somebody follows all the time, as a gateway does."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self._found: asyncio.Queue[Published] = asyncio.Queue()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for published in self.source.watch():
            self._found.put_nowait(published)

    async def next(self) -> Published:
        return await self._found.get()

    async def plugin(self) -> tuple[Published, PluginInstance]:
        published = await self.next()
        (plugin,) = published.snapshot.plugins
        return published, plugin

    @property
    def reasons(self) -> set[str]:
        return {problem.reason for problem in self.source.problems}

    async def say(self, published: Published, running: str, candidate: CandidateReport | None = None) -> None:
        report = PluginReport("loaded", running, candidate=candidate)
        await self.source.ack(Ack("one", published.generation, published.digest, plugins={"shop/demo": report}))

    async def close(self) -> None:
        await self.source.close()
        await self._task


class Bed:
    """A directory of manifests with one plugin of a marketplace in another directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.market, self.manifests = folder / "market", folder / "manifests"
        self.manifests.mkdir()
        self._stack = contextlib.AsyncExitStack()

    def write(self, **spec: Any) -> None:
        key = public_key(KEY)
        objects = [
            ("NexusMarketplace", {"name": "acme"}, {
                "source": {"directory": str(self.market)}, "publishers": [{"name": "acme", "publicKey": key}]}),
            ("NexusPlugin", {"name": "demo", "namespace": "shop"}, {"marketplace": "acme", **spec}),
        ]  # fmt: skip
        (self.manifests / "all.yaml").write_text(
            "\n---\n".join(
                json.dumps({"apiVersion": "nexus.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": said})
                for kind, metadata, said in objects
            )
        )

    def open(self, maker: Maker | None = None) -> Watched:
        """A gateway's source, as after a start."""
        locks = LocksFile(self.folder / "locks.json")
        source = FileSource(
            self.manifests, maker or Workshop(self.folder / "indexes"), locks=locks, poll_s=0.02, slow_s=60
        )
        watched = Watched(source)
        self._stack.push_async_callback(watched.close)
        return watched

    def at_end(self, cleanup: Callable[[], Awaitable[None]]) -> None:
        """Call it when all sources are closed that are opened later."""
        self._stack.push_async_callback(cleanup)

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def locks(self) -> dict[str, Lock]:
        return LocksFile(self.folder / "locks.json").read()


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = Bed(tmp_path)
    yield made
    await made.close()


def versions(plugin: PluginInstance) -> tuple[str, str]:
    tried = plugin.candidate
    return plugin.release.version, tried.instance.release.version if tried is not None else ""


@pytest.mark.parametrize("make", [Workshop, RemoteWorkshop])
async def test_a_new_release_is_tried_and_taken_over_or_taken_back(bed: Bed, make: Callable[[Path], Maker]) -> None:
    publish(bed.market, "1.0.0")
    bed.write()
    source = bed.open(make(bed.folder / "indexes"))
    published, plugin = await source.plugin()
    assert source.source.problems == ()
    assert (versions(plugin), plugin.base_url) == (("1.0.0", ""), f"file://{bed.market}/")
    await source.say(published, "1.0.0")
    await until(lambda: bed.locks == {"shop/demo": Lock("1.0.0", "1" * 64)})
    await source.close()

    publish(bed.market, "1.0.0", "1.1.0")
    source = bed.open(make(bed.folder / "indexes"))
    published, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "1.1.0"), "what the lock says runs, after a restart too"
    await source.say(published, "1.0.0", CandidateReport("1.1.0", "running"))
    await source.say(published, "1.0.0", CandidateReport("1.1.0", "refused", "PluginRolledBack", "It was slow."))
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "")
    (refused,) = bed.locks["shop/demo"].refused
    assert (refused.version, refused.reason, refused.message) == ("1.1.0", "PluginRolledBack", "It was slow.")
    (problem,) = source.source.problems
    assert (str(problem.where), problem.path) == ("NexusPlugin shop/demo", ".spec.version")
    assert problem.reason == "PluginRolledBack"
    assert problem.what == "1.1.0 was tried and taken back; 1.0.0 stays in use. It was slow."
    bed.write(version="==1.1.0")
    await until(lambda: source.reasons == {"PluginVersionNotFound"})
    (problem,) = source.source.problems
    assert problem.what == (
        'Every version of demo in "==1.1.0" was tried and taken back: 1.1.0 (PluginRolledBack). It was slow.'
    )
    bed.write(version="==1.0.0")
    await until(lambda: source.source.problems == ())
    bed.write()
    await until(lambda: source.reasons == {"PluginRolledBack"})
    await source.close()

    publish(bed.market, "1.0.0", "1.1.0", "1.2.0")
    source = bed.open(make(bed.folder / "indexes"))
    published, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "1.2.0")
    await source.say(published, "1.0.0", CandidateReport("1.2.0", "passed"))
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.2.0", "")
    assert bed.locks["shop/demo"].version == "1.2.0"
    assert source.source.problems == (), "what is older than what runs is over"


async def test_a_first_install_takes_the_newest_release_that_is_for_this_gateway(bed: Bed) -> None:
    publish(bed.market, "1.0.0", "2.0.0", "3.0.0")
    bed.write()
    source = bed.open()
    for version in ("3.0.0", "2.0.0"):
        published, plugin = await source.plugin()
        assert versions(plugin) == (version, "")
        said = PluginReport("failed", "", "PythonIncompatible", f"demo {version} needs Python >=3.99.")
        await source.source.ack(Ack("one", published.generation, published.digest, plugins={"shop/demo": said}))
    published, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", ""), "nothing is tried beside it: nothing ran before"
    assert source.reasons == set()
    await source.say(published, "1.0.0")
    await until(lambda: bed.locks["shop/demo"].version == "1.0.0")
    assert [each.version for each in bed.locks["shop/demo"].refused] == ["3.0.0", "2.0.0"]
    await source.close()

    publish(bed.market, "1.0.0", "2.0.0", "3.0.0", "4.0.0")
    bed.write(version="==3.0.0")
    source = bed.open()
    await until(lambda: source.reasons == {"PluginVersionNotFound"})
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", ""), "what runs goes on when nothing that is asked for can run here"


async def test_what_an_ack_of_another_snapshot_says_moves_nothing(bed: Bed) -> None:
    publish(bed.market, "1.0.0")
    bed.write()
    source = bed.open()
    published, _ = await source.plugin()
    await source.source.ack(
        Ack("one", published.generation + 1, "", plugins={"shop/demo": PluginReport("loaded", "1.0.0")})
    )
    bed.write(order=3)
    published, _ = await source.plugin()
    assert bed.locks == {}
    await source.say(published, "1.0.0")
    await until(lambda: "shop/demo" in bed.locks)


async def test_a_plugin_that_is_switched_off_is_forgiven_and_one_that_is_gone_forgotten(bed: Bed) -> None:
    publish(bed.market, "1.0.0", "1.1.0")
    refused = {"version": "1.1.0", "sha256": "1" * 64, "reason": "PluginRolledBack"}
    (bed.folder / "locks.json").write_text(
        json.dumps({"shop/demo": {"version": "1.0.0", "sha256": "1" * 64, "refused": [refused]}})
    )
    bed.write()
    source = bed.open()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "")
    bed.write(enabled=False)
    assert (await source.next()).snapshot.plugins == ()
    await until(lambda: bed.locks == {"shop/demo": Lock("1.0.0", "1" * 64)})
    bed.write()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "1.1.0")
    (bed.manifests / "all.yaml").write_text("")
    assert (await source.next()).snapshot.plugins == ()
    await until(lambda: bed.locks == {})


async def test_a_file_that_cannot_be_read_at_the_start_costs_no_lock(bed: Bed) -> None:
    (bed.folder / "locks.json").write_text(json.dumps({"shop/demo": {"version": "1.0.0"}}))
    (bed.manifests / "all.yaml").write_text("a: [")
    source = bed.open()
    await source.next()
    assert source.reasons == {"InvalidYaml"}
    assert bed.locks == {"shop/demo": Lock("1.0.0")}


async def test_an_index_that_is_away_or_no_longer_to_be_trusted_stays_as_it_was_last(bed: Bed) -> None:
    publish(bed.market, "1.0.0")
    bed.write()
    source = bed.open()
    await source.plugin()
    bed.market.rename(bed.folder / "away")
    source = bed.open()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "")
    (problem,) = source.source.problems
    assert (problem.path, problem.reason) == (".spec.source.directory", "MarketplaceUnreachable")
    assert problem.fix.endswith("The last good index stays in use.")
    publish(bed.market, "6.6.6", key=Ed25519PrivateKey.generate())
    source = bed.open()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "")
    assert source.reasons == {"MarketplaceNotTrusted"}


@pytest.mark.parametrize("named", [False, True])
async def test_files_of_a_marketplace_that_asks_for_a_password_are_fetched_where_manifests_are_read(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """named: the login is in a Secret, and not in the address."""
    monkeypatch.setattr(prefetching, "AGAIN_S", 0.1)
    data = b"what a plugin is made of"
    sha256 = hashlib.sha256(data).hexdigest()
    made = {**msgspec.to_builtins(release("1.0.0")), "sha256": sha256, "url": f"artefacts/{sha256}.zip"}
    Repository(bed.market).publish(
        json.dumps({"version": 1, "releases": [made]}).encode(), {}, Keys.one(KEY), datetime.now(UTC)
    )
    asked: set[str | None] = set()

    async def serve(request: web.Request) -> web.Response:
        asked.add(request.headers.get("Authorization"))
        file = bed.market / request.match_info["path"]
        return web.Response(body=file.read_bytes()) if file.is_file() else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    bed.at_end(runner.cleanup)
    address = f"127.0.0.1:{runner.addresses[0][1]}/"
    bed.write()
    file = bed.manifests / "all.yaml"
    place = json.dumps({"directory": str(bed.market)})
    source_of: dict[str, Any] = {"url": f"http://reader:pass-word@{address}"}
    if named:
        source_of = {"url": f"http://{address}", "secretRef": {"namespace": "shop", "name": "login"}}
        login = {
            "apiVersion": "v1", "kind": "Secret", "type": "nexus.dev/marketplace-login",
            "metadata": {"name": "login", "namespace": "shop"},
            "stringData": {"username": "reader", "password": "pass-word"},
        }  # fmt: skip
        (bed.manifests / "login.yaml").write_text(json.dumps(login))
    file.write_text(file.read_text().replace(place, json.dumps(source_of)))

    source = bed.open(Workshop(bed.folder / "indexes", artefacts=bed.folder / "plugins"))
    published, plugin = await source.plugin()
    assert plugin.base_url == f"http://{address}"
    assert b"pass-word" not in msgspec.json.encode(published.snapshot)
    (problem,) = source.source.problems
    assert (str(problem.where), problem.reason) == ("NexusPlugin shop/demo", "PluginFetchFailed")
    assert "pass-word" not in str(problem)
    (bed.market / "artefacts").mkdir()
    (bed.market / "artefacts" / f"{sha256}.zip").write_bytes(data)
    kept = bed.folder / "plugins" / f"{sha256}.zip"
    await until(lambda: kept.exists() and source.source.problems == ())
    assert kept.read_bytes() == data
    assert asked == {encode_basic_auth("reader", "pass-word")}


async def test_a_marketplace_that_does_not_answer_holds_no_manifests_up(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last good index counts meanwhile, in a new process too; what it answers in the end is taken."""
    monkeypatch.setattr(indexes, "HOLD_S", 0.1)
    monkeypatch.setattr(indexes, "WAITING_S", 0.05)
    monkeypatch.setattr(indexes, "FRESH_S", 0.1)
    answers = asyncio.Event()
    answers.set()
    asked = 0

    async def serve(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await answers.wait()
        file = bed.market / request.match_info["path"]
        return web.Response(body=file.read_bytes()) if file.is_file() else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    bed.at_end(runner.cleanup)
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"

    def write(**spec: Any) -> None:
        bed.write(**spec)
        file = bed.manifests / "all.yaml"
        file.write_text(
            file.read_text().replace(json.dumps({"directory": str(bed.market)}), json.dumps({"url": address}))
        )

    publish(bed.market, "1.0.0")
    write()
    source = bed.open()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "")
    answers.clear()
    before = asked
    await until(lambda: asked > before)
    write(order=3)
    _, plugin = await source.plugin()
    assert (versions(plugin), plugin.order) == (("1.0.0", ""), 3)
    assert source.source.problems == (), "it has been followed, and is looked at again"
    await source.close()

    write(order=4)
    before = asked
    source = bed.open()
    _, plugin = await source.plugin()
    assert (versions(plugin), plugin.order) == (("1.0.0", ""), 4)
    (problem,) = source.source.problems
    assert (problem.reason, problem.what) == ("MarketplaceUnreachable", f"{address} has not answered yet.")
    assert problem.fix.endswith("The last good index stays in use.")
    publish(bed.market, "1.0.0", "1.1.0")
    answers.set()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "1.1.0")
    assert source.source.problems == ()
    await source.close()

    # One of which nothing is known is waited for longer, and not for ever.
    monkeypatch.setattr(indexes, "FIRST_HOLD_S", 0.1)
    answers.clear()
    source = bed.open(Workshop(bed.folder / "elsewhere"))
    assert (await source.next()).snapshot.plugins == ()
    assert {problem.what for problem in source.source.problems} >= {f"{address} has not answered yet."}
    answers.set()
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.1.0", "")


async def test_metadata_that_has_expired_installs_nothing(bed: Bed) -> None:
    publish(bed.market, "1.0.0", at=datetime.now(UTC) - timedelta(days=4000))
    bed.write()
    source = bed.open()
    assert (await source.next()).snapshot.plugins == ()
    assert source.reasons == {"MarketplaceExpired", "MarketplaceUnreachable"}


async def test_a_directory_is_looked_at_again_by_itself(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "FRESH_HERE_S", 0.1)
    publish(bed.market, "1.0.0")
    bed.write()
    source = bed.open()
    await source.plugin()
    publish(bed.market, "1.0.0", "1.0.1")
    _, plugin = await source.plugin()
    assert versions(plugin) == ("1.0.0", "1.0.1")
