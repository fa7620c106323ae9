"""Orders as values, and the event that each one becomes. Knows nothing of HTTP or SQLite."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

EVENT_TYPE = "order.placed"
EVENT_SOURCE = "/shop/orders"
HIGHEST_PRICE_CENTS = 2**31 - 1

ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=63, pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?\\Z")]
Quantity = Annotated[int, msgspec.Meta(ge=1, le=100)]
Customer = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class NewOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a customer sends. item: id in the catalog. quantity: pieces. customer: a name; everybody who watches sees it."""

    item: ItemId
    quantity: Quantity = 1
    customer: Customer = "somebody"


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """An accepted order.

    item: id in the catalog, name: its name then. total_cents: euro cents, at the price of that moment.
    placed_at: RFC 3339, UTC.
    """

    id: str
    item: str
    name: str
    quantity: int
    customer: str
    total_cents: int
    placed_at: str


def parse_new_order(body: bytes) -> NewOrder:
    """Return the order in a request body. Raises ValueError with a sentence that names the field."""
    try:
        return msgspec.json.decode(body, type=NewOrder)
    except msgspec.DecodeError as err:
        raise ValueError(
            f'{err}. Send JSON like {{"item": "cup", "quantity": 2, "customer": "Ada"}}; quantity is 1 to 100.'
        ) from err


def build_order(new: NewOrder, item: object, *, order_id: str, placed_at: str) -> Order:
    """Return the order for an item as the catalog describes it.

    Raises ValueError when the catalog's answer lacks a name or a price.
    """
    known = item if isinstance(item, dict) else {}
    name, price_cents = known.get("name"), known.get("priceCents")
    if not isinstance(name, str) or type(price_cents) is not int or not 0 <= price_cents <= HIGHEST_PRICE_CENTS:
        raise ValueError(f"the catalog's answer for {new.item!r} has no name and price")
    return Order(order_id, new.item, name, new.quantity, new.customer, price_cents * new.quantity, placed_at)


def build_event(order: Order) -> dict[str, Any]:
    """Return the CloudEvent (1.0, structured) that announces the order. Its id is the order's: sending it again adds nothing."""
    return {
        "specversion": "1.0",
        "id": order.id,
        "source": EVENT_SOURCE,
        "type": EVENT_TYPE,
        "subject": order.id,
        "time": order.placed_at,
        "datacontenttype": "application/json",
        "data": msgspec.to_builtins(order),
    }
