"""The assortment. Values only: every replica holds the same items, so any of them can answer."""

from __future__ import annotations

import msgspec


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """One thing to buy. id: DNS label, unique: what orders name it by. price_cents: euro cents. stock: pieces at hand."""

    id: str
    name: str
    price_cents: int
    stock: int
    summary: str


ITEMS: tuple[Item, ...] = (
    Item("cup", "Cup", 1490, 120, "Holds 300 ml of whatever keeps you going."),
    Item("lamp", "Desk lamp", 5990, 24, "Warm light, a long arm and one honest switch."),
    Item("notebook", "Field notebook", 850, 400, "64 dotted pages that survive the rain."),
    Item("pen", "Fountain pen", 3450, 60, "A fine nib, refilled from a bottle."),
    Item("bag", "Linen bag", 1950, 85, "Carries the rest of this list."),
    Item("radio", "Pocket radio", 4290, 31, "Finds a station wherever you are."),
)


def find_item(item_id: str) -> Item | None:
    """Return the item, or None."""
    return next((item for item in ITEMS if item.id == item_id), None)


def find_items(text: str) -> tuple[Item, ...]:
    """Return the items whose name or summary holds the text in any case; all of them for an empty text."""
    wanted = text.strip().casefold()
    return tuple(item for item in ITEMS if wanted in f"{item.name} {item.summary}".casefold())
