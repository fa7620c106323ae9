"""What the example's orders service decides and keeps, without HTTP."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"item": "../x"}', b'{"item": "cup", "quantity": 1.5}', b"\xff"])
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
