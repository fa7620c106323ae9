"""Marketplaces from a real HTTP server that is slow, broken, rolled back or gone, and from a directory and a ConfigMap."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import signed_bytes
from nexus_core.model.plugins import NexusMarketplaceSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Release
from nexus_core.translate.market_access import Access, Locked
from nexus_gateway.testing import until
from nexus_marketplace.publishing import Artefact, build_index, public_key
from nexus_marketplace.repository import Keys, Repository
from nexus_marketplace.trust import Followed, Versions
from nexus_operator.edge import indexes
from nexus_operator.edge.indexes import Indexes, Wanted, parse_versions, show_versions
from nexus_operator.edge.markets import read_config_map, wanted_of

KEY = Ed25519PrivateKey.generate()


class Market:
    """A signed marketplace in a directory, and a server of it. status: of each answer, where it is not 200."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.status = 200
        self.asked = 0
        self.heard = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.publish("1.0")

    def publish(self, *versions: str, now_utc: datetime | None = None) -> None:
        made = []
        for version in versions:
            unsigned = Release(
                name="demo", version=version, api=">=1,<2", package="demo", entry_point="demo.plugin:Demo", sha256="0" * 64,
                url="artefacts/x.zip", publisher="me",
            )  # fmt: skip
            signature = base64.b64encode(KEY.sign(signed_bytes(unsigned))).decode()
            made.append(Artefact(msgspec.structs.replace(unsigned, signature=signature), b""))
        Repository(self.directory).publish(build_index(made), {}, Keys.one(KEY), now_utc or datetime.now(UTC))

    def put_back(self, former: Path) -> None:
        shutil.rmtree(self.directory)
        shutil.copytree(former, self.directory)

    async def serve(self, request: web.Request) -> web.Response:
        await self.gate.wait()
        self.asked += 1
        self.heard.set()
        path = self.directory / request.match_info["path"]
        if self.status != 200 or not path.is_file():
            return web.Response(status=self.status if self.status != 200 else 404)
        return web.Response(body=path.read_bytes())

    def wanted(self, place: dict[str, Any] | None = None, **more: Any) -> Wanted:
        spec = {
            "source": place or {"url": self.url},
            "publishers": [{"name": "me", "publicKey": more.pop("key", public_key(KEY))}],
        }
        return Wanted(NexusMarketplaceSpec.model_validate_json(json.dumps(spec)), **more)


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    served = Market(tmp_path / "market")
    app = web.Application()
    app.router.add_get("/{path:.*}", served.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield served
    await runner.cleanup()


class Following:
    """Indexes that say when they changed."""

    def __init__(self, state: Path, files: dict[str, bytes | str] | None = None) -> None:
        self.changed = asyncio.Event()
        self.indexes = Indexes(ttl_s=0.05, state=state, changed=self.changed.set, configmap=lambda *_: files)

    async def first(self, wanted: Wanted) -> None:
        """Follow one, called `m`, until it is known or known to be in trouble."""
        await self.indexes.follow({"m": wanted})
        while not self.indexes.current and not self.indexes.troubles:
            await self.next_change()

    async def next_change(self) -> None:
        async with asyncio.timeout(20):
            await self.changed.wait()
        self.changed.clear()

    async def until(self, version: str) -> None:
        while version not in self.versions:
            await self.next_change()

    @property
    def versions(self) -> list[str]:
        return [release.version for release in self.indexes.current["m"].releases]


@pytest.fixture
async def following(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Following]:
    monkeypatch.setattr(indexes, "RETRY_S", 0.05)
    monkeypatch.setattr(indexes, "FIRST_WAIT_S", 20.0)
    found = Following(tmp_path / "state")
    yield found
    await found.indexes.close()


async def test_the_first_index_is_there_when_follow_returns(following: Following, market: Market) -> None:
    await following.indexes.follow({"m": market.wanted()})
    assert following.versions == ["1.0"]
    assert not following.indexes.troubles
    assert following.indexes.versions["m"].timestamp == 1


async def test_a_new_release_is_news_and_an_unchanged_marketplace_is_none(following: Following, market: Market) -> None:
    await following.first(market.wanted())
    asked = market.asked
    async with asyncio.timeout(20):
        while market.asked < asked + 3:
            market.heard.clear()
            await market.heard.wait()
    assert not following.changed.is_set(), "nobody is woken for nothing"
    market.publish("1.0", "1.1")
    await following.until("1.1")
    assert following.indexes.versions["m"].targets == 2


async def test_the_annotation_has_it_looked_at_now(
    following: Following, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    following.indexes._ttl_s = 3600.0
    await following.first(market.wanted(refresh="a"))
    market.publish("1.0", "1.1")
    await following.indexes.follow({"m": market.wanted(refresh="b")})
    await following.until("1.1")


MISSING = Problem(
    ObjectRef("NexusPlugin", "shop", "demo"), ".spec.version", "PluginVersionNotFound", "It has no 1.1.", ""
)


async def test_a_release_that_is_not_listed_has_it_looked_at_now(
    following: Following, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "ASKED_S", 0.0)
    following.indexes._ttl_s = 3600.0
    await following.first(market.wanted())
    market.publish("1.0", "1.1")
    following.indexes.doubt(frozenset({MISSING}))
    await following.until("1.1")


async def test_it_is_looked_at_again_until_it_is_listed(
    following: Following, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "ASKED_S", 0.0)
    monkeypatch.setattr(indexes, "AGAIN_S", 0.1)
    following.indexes._ttl_s = 3600.0
    await following.first(market.wanted())
    entry = following.indexes._entries["m"]
    following.indexes.doubt(frozenset({MISSING}))
    await until(lambda: entry.doubts <= indexes.LOOKS - 2)
    market.publish("1.0", "1.1")
    await following.until("1.1")
    following.indexes.doubt(frozenset())
    assert entry.doubts == 0
    assert following.indexes._wait_s(entry) == 3600.0


async def test_what_will_never_be_there_is_looked_for_ten_times(
    following: Following, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "ASKED_S", 0.0)
    monkeypatch.setattr(indexes, "AGAIN_S", 0.01)
    following.indexes._ttl_s = 3600.0
    await following.first(market.wanted())
    asked = market.asked
    entry = following.indexes._entries["m"]
    looks = 0

    def looked(*_: object) -> tuple[object, object]:
        nonlocal looks
        looks += 1
        return entry.index, entry.versions

    monkeypatch.setattr(Followed, "update", looked)
    following.indexes.doubt(frozenset({MISSING}))
    following.indexes.doubt(frozenset({MISSING}))  # the next translation finds the same
    await until(lambda: looks == indexes.LOOKS)
    following.indexes.doubt(frozenset({MISSING}))
    assert (entry.doubts, looks, market.asked) == (0, indexes.LOOKS, asked)
    assert following.indexes._wait_s(entry) == 3600.0
    other = replace(MISSING, what="It has no 1.2.")
    following.indexes.doubt(frozenset({MISSING, other}))
    await until(lambda: looks == 2 * indexes.LOOKS and entry.doubts == 0)
    assert not following.changed.is_set(), "nobody is woken for nothing"


async def test_an_index_that_was_just_read_is_taken_as_it_is_for_a_moment(following: Following, market: Market) -> None:
    following.indexes._ttl_s = 3600.0
    await following.first(market.wanted())
    entry = following.indexes._entries["m"]
    following.indexes.doubt(frozenset({MISSING}))
    await asyncio.sleep(0)
    assert not entry.again.is_set()
    assert entry.doubts == indexes.LOOKS


@pytest.mark.parametrize("kind", ["away", "broken", "rolled back", "expired"])
async def test_the_last_good_index_stays_and_the_trouble_is_told(
    following: Following, market: Market, kind: str, tmp_path: Path
) -> None:
    former = Path(shutil.copytree(market.directory, tmp_path / "former"))
    market.publish("1.0", "1.1")
    newest = Path(shutil.copytree(market.directory, tmp_path / "newest"))
    await following.first(market.wanted())
    reasons = {
        "away": "MarketplaceUnreachable", "broken": "MarketplaceInvalid", "rolled back": "MarketplaceRolledBack",
        "expired": "MarketplaceExpired",
    }  # fmt: skip
    if kind == "away":
        market.status = 500
    elif kind == "broken":
        (market.directory / "metadata" / "timestamp.json").write_text("<html>")
    elif kind == "rolled back":
        market.put_back(former)
    else:
        market.publish("1.0", "1.1", "1.2", now_utc=datetime.now(UTC) - timedelta(days=400))
    while "m" not in following.indexes.troubles:
        await following.next_change()
    trouble = following.indexes.troubles["m"]
    assert (trouble.reason, trouble.stale) == (reasons[kind], True), trouble.what
    assert trouble.fix
    assert sorted(following.versions) == ["1.0", "1.1"]
    market.status = 200
    if kind in ("broken", "rolled back"):
        market.put_back(newest)
    market.publish("1.0", "1.1", "1.3")
    await following.until("1.3")
    assert not following.indexes.troubles


async def test_a_rolled_back_marketplace_is_seen_by_the_status_alone(following: Following, market: Market) -> None:
    """The state directory went with the pod; what the object's status says did not."""
    floor = parse_versions({"root": 1, "timestamp": 7, "snapshot": 7, "targets": 7})
    await following.first(market.wanted(floor=floor))
    assert following.indexes.troubles["m"].reason == "MarketplaceRolledBack"
    assert not following.indexes.current


async def test_a_marketplace_that_is_applied_anew_is_trusted_anew(following: Following, market: Market) -> None:
    await following.first(market.wanted(uid="one", floor=Versions(1, 7, 7, 7)))
    assert following.indexes.troubles["m"].reason == "MarketplaceRolledBack"
    await following.first(market.wanted(uid="two"))
    assert following.versions == ["1.0"]


async def test_a_marketplace_whose_owner_made_it_anew_is_trusted_anew_when_it_is_said(
    following: Following, market: Market, tmp_path: Path
) -> None:
    former = Path(shutil.copytree(market.directory, tmp_path / "former"))
    market.publish("1.0", "1.1")
    await following.first(market.wanted(uid="u"))
    market.put_back(former)
    while "m" not in following.indexes.troubles:
        await following.next_change()
    trouble = following.indexes.troubles["m"]
    assert trouble.fix.endswith(
        'say so: kubectl annotate nexusmarketplace m nexus.dev/trust-anew="$(date +%s)" --overwrite.'
    )
    assert str(tmp_path) not in trouble.what + trouble.fix, "nobody has the operator's files"
    market.status = 503
    await following.indexes.follow({"m": market.wanted(uid="u", anew="a")})
    assert following.versions == ["1.0", "1.1"], "the last good index stays until there is another"
    market.status = 200
    while following.versions != ["1.0"]:
        await following.next_change()
    assert following.indexes.metadata["m"]["anew"] == "a"
    assert following.indexes.metadata["m"]["timestamp"] == 1
    market.publish("1.0", "1.2")
    await following.until("1.2")
    market.put_back(former)
    while "m" not in following.indexes.troubles:
        await following.next_change()
    assert following.indexes.troubles["m"].reason == "MarketplaceRolledBack", "it was forgotten once, and not for good"


async def test_another_login_is_taken_while_the_index_stays(following: Following, market: Market) -> None:
    await following.first(market.wanted(uid="u"))
    await following.indexes.follow({"m": market.wanted(uid="u", access=Locked("There is no Secret.", "Make it."))})
    trouble = following.indexes.troubles["m"]
    assert (trouble.reason, trouble.what, trouble.stale) == ("MarketplaceUnreachable", "There is no Secret.", True)
    assert following.versions == ["1.0"]
    market.publish("1.0", "1.1")
    await following.indexes.follow({"m": market.wanted(uid="u", access=Access(token="t0ken"))})
    await following.until("1.1")
    assert not following.indexes.troubles


async def test_a_restart_without_the_marketplace_has_the_index(
    following: Following, market: Market, tmp_path: Path
) -> None:
    await following.first(market.wanted())
    await following.indexes.close()
    market.status = 503
    again = Following(tmp_path / "state")
    await again.first(market.wanted())
    assert again.versions == ["1.0"]
    assert again.indexes.troubles["m"].stale
    assert again.indexes.versions["m"].timestamp == 1
    await again.indexes.close()


async def test_another_key_is_not_trusted(following: Following, market: Market) -> None:
    other = public_key(Ed25519PrivateKey.generate())
    await following.first(market.wanted(key=other))
    assert following.indexes.troubles["m"].reason == "MarketplaceNotTrusted"
    assert not following.indexes.current


async def test_a_marketplace_that_does_not_answer_holds_nobody_up(
    following: Following, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every edit of every object waits behind this, so it is short."""
    monkeypatch.setattr(indexes, "FIRST_WAIT_S", 0.1)
    market.gate.clear()
    await following.indexes.follow({"m": market.wanted()})
    assert not following.indexes.current
    market.gate.set()
    await following.next_change()
    assert set(following.indexes.current) == {"m"}


async def test_a_removed_marketplace_is_forgotten(following: Following, market: Market) -> None:
    await following.first(market.wanted())
    await following.indexes.follow({})
    assert not following.indexes.current


async def test_the_bundled_index_needs_no_network(following: Following, market: Market) -> None:
    await following.first(market.wanted({"bundled": True}))
    assert {r.name for r in following.indexes.current["m"].releases} >= {"request-id", "api-key"}
    assert not following.indexes.versions, "what is installed is not signed by metadata"


async def test_directories_and_config_maps_are_followed_alike(market: Market, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        path.relative_to(market.directory).as_posix().replace("/", "__"): path.read_bytes()
        for path in market.directory.rglob("*")
        if path.is_file()
    }
    for number, place in enumerate(
        ({"directory": str(market.directory)}, {"configMap": {"namespace": "shop", "name": "market"}})
    ):
        following = Following(tmp_path / f"state-{number}", files)
        await following.first(market.wanted(place))
        assert following.versions == ["1.0"], following.indexes.troubles
        await following.indexes.close()


def test_versions_are_read_from_what_they_are_shown_as() -> None:
    versions = Versions(1, 4, 3, 2, "2027-01-01T00:00:00+00:00")
    assert parse_versions(show_versions(versions)) == parse_versions(show_versions(versions, "a")) == versions
    assert parse_versions({"root": "x", "timestamp": True}) == Versions()
    assert parse_versions(None) == Versions()


def test_what_a_marketplace_wants_is_read_of_its_object() -> None:
    from nexus_core.model.load import parse
    from nexus_operator.world.inventory import Inventory
    from nexus_operator.world.kinds import WATCHED
    from nexus_operator.world.named import named_by

    inventory = Inventory(kind.kind for kind in WATCHED)
    obj: dict[str, Any] = {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace",
        "metadata": {"name": "m", "uid": "u", "resourceVersion": "1", "annotations": {"nexus.dev/refresh": "now"}},
        "spec": {"source": {"configMap": {"namespace": "shop", "name": "c"}},
                 "publishers": [{"name": "me", "publicKey": public_key(KEY)}]},
        "status": {"metadata": {"root": 2, "timestamp": 9}},
    }  # fmt: skip
    inventory.observe("NexusMarketplace", obj)
    [wanted] = wanted_of([parse(obj)], inventory).values()
    assert (wanted.uid, wanted.floor) == ("u", Versions(2, 9))
    obj["metadata"]["annotations"]["nexus.dev/trust-anew"] = "2026-11-22"
    [anew] = wanted_of([parse(obj)], inventory).values()
    assert (anew.floor, anew.place) == (None, wanted.place)
    assert anew.state != wanted.state
    seen = {"root": 1, "timestamp": 1, "anew": anew.anew}
    inventory.observe("NexusMarketplace", {**obj, "status": {"metadata": seen}})
    for said in ({"nexus.dev/trust-anew": "2026-11-22"}, {}):
        obj["metadata"]["annotations"] = said
        [later] = wanted_of([parse(obj)], inventory).values()
        assert (later.anew, later.floor) == (anew.anew, Versions(1, 1)), "it is forgotten once; the word may go"
    login = {
        "apiVersion": "v1", "kind": "Secret", "type": "nexus.dev/marketplace-login",
        "metadata": {"name": "l", "namespace": "shop", "resourceVersion": "5"},
        "data": {"token": "dDBrZW4=", "other": "eA=="},
    }  # fmt: skip
    guarded = {
        **obj,
        "spec": {**obj["spec"], "source": {"url": "https://m/", "secretRef": {"namespace": "shop", "name": "l"}}},
    }
    inventory.name(named_by([parse(guarded)]))
    inventory.observe("Secret", login)
    kept = inventory.get("Secret", "shop", "l")
    assert kept is not None
    assert set(kept["data"]) == {"token"}, "no more of it than is named"
    [open_] = wanted_of([parse(guarded), parse(kept)], inventory).values()
    assert open_.access == Access(token="t0ken")
    assert "t0ken" not in repr(open_)
    inventory.name(named_by([parse(obj)]))
    held = {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "binaryData": {"c": "AAE="},
        "metadata": {"name": "c", "namespace": "shop", "resourceVersion": "5"},
    }  # fmt: skip
    inventory.observe("ConfigMap", held)
    [later] = wanted_of([parse(obj)], inventory).values()
    assert later.refresh != wanted.refresh, "another ConfigMap is looked at"
    assert read_config_map(inventory, "shop", "c") == {"a": "b", "c": b"\x00\x01"}
    assert read_config_map(inventory, "shop", "none") is None
