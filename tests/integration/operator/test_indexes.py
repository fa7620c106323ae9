"""Marketplace indexes from a real HTTP server that is slow, broken, too large or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from nexus_core.marketplace.index import MAX_INDEX_BYTES
from nexus_operator.edge import indexes
from nexus_operator.edge.indexes import BUNDLED, Indexes

GOOD = b'{"version": 1, "releases": []}'


class Market:
    """Serves one index; `status` and `body` may be changed at any time. asked: If-None-Match of each request."""

    def __init__(self) -> None:
        self.body = GOOD
        self.status = 200
        self.etag = '"1"'
        self.asked: list[str | None] = []
        self.asked_thrice = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, request: web.Request) -> web.Response:
        await self.gate.wait()
        self.asked.append(request.headers.get("If-None-Match"))
        if len(self.asked) == 3:
            self.asked_thrice.set()
        if self.status == 200 and self.asked[-1] == self.etag:
            return web.Response(status=304)
        return web.Response(status=self.status, body=self.body, headers={"ETag": self.etag})


@pytest.fixture
async def market() -> AsyncIterator[tuple[Market, str]]:
    served = Market()
    app = web.Application()
    app.router.add_get("/index.json", served.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield served, f"http://127.0.0.1:{runner.addresses[0][1]}/index.json"
    await runner.cleanup()


class Following:
    """Indexes that say when they changed."""

    def __init__(self, ttl_s: float = 0.05) -> None:
        self.changed = asyncio.Event()
        self.indexes = Indexes(ttl_s=ttl_s, changed=self.changed.set)

    async def next_change(self) -> None:
        async with asyncio.timeout(10):
            await self.changed.wait()
        self.changed.clear()


@pytest.fixture
async def following(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Following]:
    monkeypatch.setattr(indexes, "RETRY_S", 0.05)
    found = Following()
    yield found
    await found.indexes.close()


async def test_the_first_index_is_there_when_follow_returns(following: Following, market: tuple[Market, str]) -> None:
    await following.indexes.follow({"m": market[1]})
    assert set(following.indexes.current) == {"m"}
    assert not following.indexes.troubles


async def test_an_unchanged_index_is_not_sent_again(following: Following, market: tuple[Market, str]) -> None:
    served, url = market
    await following.indexes.follow({"m": url})
    async with asyncio.timeout(10):
        await served.asked_thrice.wait()
    assert served.asked[:3] == [None, '"1"', '"1"']
    assert not following.changed.is_set(), "nobody is woken for nothing"


@pytest.mark.parametrize(
    ("status", "body", "reason", "says"),
    [
        (500, b"", "MarketplaceUnreachable", "HTTP 500"),
        (200, b"<html>", "MarketplaceInvalid", "cannot be read"),
        (200, b"x" * (MAX_INDEX_BYTES + 1), "MarketplaceUnreachable", "larger than"),
    ],
)
async def test_the_last_good_index_stays_and_the_trouble_is_told(
    following: Following, market: tuple[Market, str], status: int, body: bytes, reason: str, says: str
) -> None:
    served, url = market
    await following.indexes.follow({"m": url})
    good = following.indexes.current["m"]
    served.status, served.body, served.etag = status, body, '"2"'
    await following.next_change()
    trouble = following.indexes.troubles["m"]
    assert (trouble.reason, trouble.stale) == (reason, True)
    assert says in trouble.what
    assert following.indexes.current["m"] is good
    served.status, served.body, served.etag = 200, GOOD, '"3"'
    await following.next_change()
    assert not following.indexes.troubles


async def test_a_marketplace_that_does_not_answer_holds_nobody_up(
    following: Following, market: tuple[Market, str]
) -> None:
    """Every edit of every object waits behind this, so it is short."""
    served, url = market
    served.gate.clear()
    async with asyncio.timeout(2):
        await following.indexes.follow({"m": url})
    assert not following.indexes.current
    served.gate.set()
    await following.next_change()
    assert set(following.indexes.current) == {"m"}


async def test_a_removed_marketplace_is_forgotten(following: Following, market: tuple[Market, str]) -> None:
    await following.indexes.follow({"m": market[1]})
    await following.indexes.follow({})
    assert not following.indexes.current


async def test_a_closed_port_is_told_with_the_remedy(following: Following) -> None:
    await following.indexes.follow({"m": "http://127.0.0.1:9/index.json"})
    trouble = following.indexes.troubles["m"]
    assert "did not answer" in trouble.what
    assert ".spec.source.url" in trouble.fix


async def test_the_bundled_index_needs_no_network(following: Following) -> None:
    await following.indexes.follow({"official": BUNDLED})
    assert {r.name for r in following.indexes.current["official"].releases} >= {"request-id", "api-key"}
