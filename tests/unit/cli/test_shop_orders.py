"""What the example's orders service decides and keeps, without HTTP."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import shop_orders.app
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_sdk import ServiceApp
from nexus_sdk.discovery.memory import MemoryDiscovery
from shop_orders import orders
from shop_orders.store import Store

ITEM = {"id": "cup", "name": "Cup", "priceCents": 1490}


def order_of(number: int) -> orders.Order:
    new = orders.parse_new_order(b'{"item": "cup", "quantity": 2}')
    return orders.build_order(new, dict(ITEM), order_id=f"order-{number}", placed_at="2026-01-02T03:04:05+00:00")


def test_an_order_takes_name_and_price_from_the_catalog() -> None:
    order = order_of(1)
    assert (order.name, order.quantity, order.total_cents, order.customer) == ("Cup", 2, 2980, "somebody")
    event = orders.build_event(order)
    assert (event["id"], event["type"], event["data"]["totalCents"]) == ("order-1", "order.placed", 2980)


def test_a_catalog_without_a_price_is_refused() -> None:
    new = orders.parse_new_order(b'{"item": "cup"}')
    with pytest.raises(ValueError, match="no name and price"):
        orders.build_order(new, {"name": "Cup"}, order_id="x", placed_at="")


@pytest.mark.parametrize("price", [True, -1, 2**63, 1.5, None])
def test_a_price_that_cannot_be_is_refused(price: object) -> None:
    new = orders.parse_new_order(b'{"item": "cup"}')
    for answer in ({"name": "Cup", "priceCents": price}, [price], price):
        with pytest.raises(ValueError, match="no name and price"):
            orders.build_order(new, answer, order_id="x", placed_at="")


@pytest.mark.parametrize(
    "body", [b'{"item": "cup\\n"}', b"", b"[]", b"{", b'{"item": "../x"}', b'{"item": "cup", "quantity": 1.5}', b"\xff"]
)
def test_what_is_no_order_is_refused_with_an_example(body: bytes) -> None:
    with pytest.raises(ValueError, match="Send JSON like"):
        orders.parse_new_order(body)


def test_order_and_event_are_kept_together_over_a_crash(tmp_path: Path) -> None:
    """The first store is never closed, as after kill -9."""
    first = Store(tmp_path / "orders.sqlite3")
    first.add(order_of(1), orders.build_event(order_of(1)), traceparent="00-t", request_key=None)
    second = Store(tmp_path / "orders.sqlite3")
    assert second.find("order-1") == order_of(1)
    (waiting,) = second.waiting(10)
    assert (waiting.event["id"], waiting.traceparent) == ("order-1", "00-t")
    second.confirmed(waiting.number)
    assert second.waiting(10) == ()
    second.close()
    first.close()


def test_a_request_key_gives_the_first_order_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "orders.sqlite3")
    store.add(order_of(1), orders.build_event(order_of(1)), traceparent="", request_key="k")
    again = store.add(order_of(2), orders.build_event(order_of(2)), traceparent="", request_key="k")
    assert again.id == "order-1"
    assert [o.id for o in store.latest(10)] == ["order-1"]
    assert len(store.waiting(10)) == 1, "no second event either"
    store.close()


def test_a_failed_commit_leaves_neither_order_nor_event(tmp_path: Path) -> None:
    store = Store(tmp_path / "orders.sqlite3")
    store.add(order_of(1), orders.build_event(order_of(1)), traceparent="", request_key=None)
    with pytest.raises(sqlite3.IntegrityError):
        store.add(order_of(1), orders.build_event(order_of(1)), traceparent="", request_key=None)
    assert len(store.waiting(10)) == 1
    store.close()


def test_a_refused_event_blocks_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "orders.sqlite3")
    for number in (1, 2):
        store.add(order_of(number), orders.build_event(order_of(number)), traceparent="", request_key=None)
    store.refused(store.waiting(1)[0].number, "400 no")
    assert [w.event["id"] for w in store.waiting(10)] == ["order-2"]
    store.close()


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, MemoryDiscovery]]:
    monkeypatch.setenv("NEXUS_DATA_DIR", str(tmp_path))
    discovery = MemoryDiscovery()
    monkeypatch.setattr(shop_orders.app, "ServiceApp", functools.partial(ServiceApp, discovery=discovery, environ={}))
    async with shop_orders.app.build().test_server() as server:
        yield server.url, discovery


@pytest.mark.parametrize("limit", ["0100000", "100000", "0", "-1", "0001" + "0" * 5000, "x"])
async def test_no_limit_lets_out_more_than_a_hundred(service: tuple[str, MemoryDiscovery], limit: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{service[0]}/orders", params={"limit": limit}) as reply:
        assert (reply.status, (await reply.json())["reason"]) == (400, "LimitInvalid")


async def test_a_key_that_is_no_text_is_refused(service: tuple[str, MemoryDiscovery]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service[0].rsplit(":", 1)[1]))
    writer.write(b"POST /orders HTTP/1.1\r\nhost: a\r\nidempotency-key: \xff\r\ncontent-length: 0\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_an_event_refused_for_want_of_a_key_waits_and_one_refused_for_good_does_not_block(
    service: tuple[str, MemoryDiscovery], tmp_path: Path
) -> None:
    answers, done = [401, 403, 202, 400, 202], asyncio.Event()
    got: list[str] = []

    async def take(request: web.Request) -> web.Response:
        got.append((await request.json())["id"])
        if len(got) == len(answers):
            done.set()
        return web.Response(status=answers[len(got) - 1])

    application = web.Application()
    application.router.add_post("/events", take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service[1].set("events.default", [Endpoint("127.0.0.1", runner.addresses[0][1])])
    store = Store(tmp_path / "orders.sqlite3")
    for number in range(3):
        store.add(order_of(number), orders.build_event(order_of(number)), traceparent="", request_key=None)
    async with asyncio.timeout(20):
        await done.wait()
    assert got == ["order-0", "order-0", "order-0", "order-1", "order-2"]
    store.close()
    await runner.cleanup()
