"""Files of plugins in a real Consul: there before the Snapshot, whole or not at all, and no longer than they are named."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import encode_basic_auth, web
from nexus_core.model.plugins import NexusMarketplaceSpec
from nexus_core.snapshot import PluginInstance, Release, Snapshot, Wheel, WheelNeed
from nexus_core.snapshot.plugins import Candidate, Lacking
from nexus_core.snapshot.wire import artefact_key, artefact_prefix
from nexus_core.translate.market_access import Access, Locked
from nexus_operator.edge import artefacts
from nexus_operator.edge.artefacts import ArtefactMirror
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.indexes import Indexes, Wanted
from nexus_operator.publication.artefacts import MAX_BYTES, PART_BYTES, artefacts_of, wheels_of


class Market:
    """A directory of artefacts, as a marketplace has them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "artefacts").mkdir(parents=True)
        (directory / "wheels").mkdir()
        self.base_url = f"{directory.as_uri()}/"

    def instance(self, data: bytes, version: str = "1.0", candidate: PluginInstance | None = None) -> PluginInstance:
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"artefacts/{sha256}.zip"
        (self.directory / path).write_bytes(data)
        release = Release(
            name="key", version=version, api=">=1,<2", package="p", entry_point="p:P", sha256=sha256, url=path
        )
        return PluginInstance(
            id="shop/key", source="NexusPlugin shop/key", release=release, public_key="", base_url=self.base_url,
            candidate=Candidate(instance=candidate) if candidate is not None else None,
        )  # fmt: skip

    def wheel(self, data: bytes) -> WheelNeed:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.directory / "wheels" / f"{sha256}.whl").write_bytes(data)
        return WheelNeed("demo", "1.0", (Wheel("demo-1.0-py3-none-any.whl", sha256, "http://127.0.0.1:9/x.whl"),))


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "market")


class Mirroring:
    """A mirror under a prefix of its own."""

    def __init__(self, consul: ConsulApi, tmp_path: Path) -> None:
        self.consul = consul
        self.prefix = f"test-{secrets.token_hex(4)}"
        self._tmp_path = tmp_path
        self.indexes = Indexes(ttl_s=60, state=tmp_path / "state", changed=lambda: None)
        self.mirror = self.other()

    def other(self) -> ArtefactMirror:
        """Another leader's, with nothing on its disk."""
        cache = self._tmp_path / f"cache-{secrets.token_hex(4)}"
        return ArtefactMirror(self.consul, self.prefix, self.indexes, cache)

    async def kept(self, data: bytes) -> bytes | None:
        """What a gateway would read."""
        sha256 = hashlib.sha256(data).hexdigest()
        found = b""
        for number in range(64):
            part = await self.consul.get(artefact_key(sha256, number, self.prefix))
            if part is None:
                break
            assert len(part.value) <= PART_BYTES
            found += part.value
        return found or None


@pytest.fixture
async def mirroring(consul: ConsulApi, tmp_path: Path) -> AsyncIterator[Mirroring]:
    found = Mirroring(consul, tmp_path)
    yield found
    await found.mirror.close()


async def test_zips_of_releases_and_candidates_and_wheels_are_kept(market: Market, mirroring: Mirroring) -> None:
    import msgspec

    small, large, wheel = b"small", secrets.token_bytes(2 * PART_BYTES + 7), b"wheel"
    instance = market.instance(small, candidate=market.instance(large, "1.1"))
    with_wheel = msgspec.structs.replace(instance, wheels=(market.wheel(wheel),))
    await mirroring.mirror.ensure(Snapshot(plugins=(with_wheel,)))
    assert mirroring.mirror.problems == ()
    for data in (small, large, wheel):
        assert await mirroring.kept(data) == data


def test_a_plugin_that_lacks_a_release_has_no_files() -> None:
    release = Release(name="key", version="", api="", package="", entry_point="", sha256="", url="")
    plugin = PluginInstance(
        id="shop/key", source="NexusPlugin shop/key", release=release, public_key="",
        lacking=Lacking("PluginNotFound", "It is nowhere."),
    )  # fmt: skip
    found = Snapshot(plugins=(plugin,))
    assert (artefacts_of(found), wheels_of(found)) == ((), ())


async def test_what_is_there_is_not_fetched_again(market: Market, mirroring: Mirroring) -> None:
    snapshot = Snapshot(plugins=(market.instance(b"one"),))
    await mirroring.mirror.ensure(snapshot)
    for path in (market.directory / "artefacts").iterdir():
        path.unlink()  # the marketplace is away
    other = mirroring.other()
    await other.ensure(snapshot)
    assert other.problems == ()
    assert await mirroring.kept(b"one") == b"one"


async def test_a_write_that_broke_off_is_made_good(market: Market, mirroring: Mirroring) -> None:
    data = secrets.token_bytes(PART_BYTES + 1)
    sha256 = hashlib.sha256(data).hexdigest()
    await mirroring.consul.put(artefact_key(sha256, 1, mirroring.prefix), data[PART_BYTES:])
    await mirroring.mirror.ensure(Snapshot(plugins=(market.instance(data),)))
    assert await mirroring.kept(data) == data


async def test_what_gateways_cannot_fetch_and_we_cannot_either_is_told(market: Market, mirroring: Mirroring) -> None:
    instance = market.instance(b"one")
    (market.directory / instance.release.url).write_bytes(b"swapped")
    await mirroring.mirror.ensure(Snapshot(plugins=(instance,)))
    [problem] = mirroring.mirror.problems
    assert (str(problem.where), problem.reason) == ("NexusPlugin shop/key", "PluginFetchFailed")
    assert "SHA-256" in problem.what
    assert await mirroring.kept(b"one") is None
    (market.directory / instance.release.url).write_bytes(b"one")
    again = mirroring.other()
    await again.ensure(Snapshot(plugins=(instance,)))
    assert again.problems == ()


@pytest.fixture
async def guarded(market: Market) -> AsyncIterator[Market]:
    """The market on a web server that asks for a name and password; its `base_url` is the Snapshot's, without them."""

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != encode_basic_auth("reader", "secret"):
            return web.Response(status=401)
        file = market.directory / request.match_info["path"]
        return web.Response(body=file.read_bytes()) if file.is_file() else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    market.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield market
    await runner.cleanup()


async def follow(indexes: Indexes, url: str, access: Access | Locked | None = None) -> None:
    """Have it know the marketplace; that there is no index is nothing to who fetches artefacts."""
    publisher = {"name": "me", "publicKey": "A" * 43 + "="}
    named = {"secretRef": {"namespace": "nexus", "name": "login"}} if access is not None else {}
    spec = {"source": {"url": url, **named}, "publishers": [publisher]}
    await indexes.follow({"m": Wanted(NexusMarketplaceSpec.model_validate_json(json.dumps(spec)), access=access)})


async def test_a_marketplace_that_asks_for_a_password_is_asked_with_it(guarded: Market, mirroring: Mirroring) -> None:
    import msgspec

    instance = msgspec.structs.replace(guarded.instance(b"one"), wheels=(guarded.wheel(b"wheel"),))
    await follow(mirroring.indexes, guarded.base_url.replace("://", "://reader:secret@"))
    await mirroring.mirror.ensure(Snapshot(plugins=(instance,)))
    assert mirroring.mirror.problems == ()
    assert await mirroring.kept(b"one") == b"one"
    assert await mirroring.kept(b"wheel") == b"wheel"
    await mirroring.indexes.close()


async def test_what_gateways_cannot_fetch_for_want_of_a_password_is_told(guarded: Market, mirroring: Mirroring) -> None:
    await follow(mirroring.indexes, guarded.base_url.replace("://", "://reader:wrong-one@"))
    await mirroring.mirror.ensure(Snapshot(plugins=(guarded.instance(b"one"),)))
    [problem] = mirroring.mirror.problems
    assert (problem.reason, "answered 401" in problem.what) == ("PluginFetchFailed", True)
    assert "wrong-one" not in str(problem)
    await mirroring.indexes.close()


async def test_a_marketplace_with_a_login_in_a_secret_is_asked_with_it(guarded: Market, mirroring: Mirroring) -> None:
    import msgspec

    instance = msgspec.structs.replace(guarded.instance(b"one"), wheels=(guarded.wheel(b"wheel"),))
    await follow(mirroring.indexes, guarded.base_url, Locked("There is no Secret.", "Make it."))
    await mirroring.mirror.ensure(Snapshot(plugins=(instance,)))
    assert [problem.reason for problem in mirroring.mirror.problems] == ["PluginFetchFailed"] * 2
    await follow(mirroring.indexes, guarded.base_url, Access(user="reader", password="secret"))
    again = mirroring.other()
    await again.ensure(Snapshot(plugins=(instance,)))
    assert again.problems == ()
    assert await mirroring.kept(b"one") == b"one"
    assert await mirroring.kept(b"wheel") == b"wheel"
    await mirroring.indexes.close()


async def test_what_gateways_fetch_themselves_is_no_problem(market: Market, mirroring: Mirroring) -> None:
    import msgspec

    instance = msgspec.structs.replace(market.instance(b"one"), base_url="http://127.0.0.1:9/")
    await mirroring.mirror.ensure(Snapshot(plugins=(instance,)))
    assert mirroring.mirror.problems == ()


async def test_a_file_that_is_too_large_is_left_to_the_marketplace(market: Market, mirroring: Mirroring) -> None:
    await mirroring.mirror.ensure(Snapshot(plugins=(market.instance(bytes(MAX_BYTES + 1)),)))
    [problem] = mirroring.mirror.problems
    assert f"more than {MAX_BYTES} bytes" in problem.what
    assert not await mirroring.consul.keys(artefact_prefix(mirroring.prefix))


async def test_what_no_snapshot_names_goes_after_a_while(
    market: Market, mirroring: Mirroring, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirroring.mirror.ensure(Snapshot(plugins=(market.instance(b"one"),)))
    await mirroring.mirror.ensure(Snapshot(plugins=(market.instance(b"two"),)))
    assert await mirroring.kept(b"one") == b"one", "gateways may still run the Snapshot before"
    other = mirroring.other()
    await other.ensure(Snapshot(plugins=(market.instance(b"two"),)))
    assert await mirroring.kept(b"one") == b"one", "a new leader gives it as long"
    monkeypatch.setattr(artefacts, "KEPT_S", 0.0)
    await other.ensure(Snapshot())
    assert not await mirroring.consul.keys(artefact_prefix(mirroring.prefix))
