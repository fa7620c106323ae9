"""The Snapshots of the churn suite: the route under load, and many others that change beside it."""

from __future__ import annotations

import random

from nexus_core.snapshot import (
    Discovered,
    HeaderModifier,
    Listener,
    Match,
    Route,
    Rule,
    Snapshot,
    Upstream,
    WeightedBackend,
)

LISTENER = Listener("churn/nexus/http", "Gateway churn/nexus", 80)
OTHERS = 300


def upstream(service: str) -> Upstream:
    """A service found in Consul."""
    return Upstream(f"shop/{service}", f"NexusService shop/{service}", Discovered(f"{service}.churn"))


def loaded(**weights: int) -> Route:
    """The route under load. weights: of its services, by name with `_` for `-`; `orders` alone when none is given."""
    backends = tuple(
        WeightedBackend(f"shop/{name.replace('_', '-')}", weight) for name, weight in (weights or {"orders": 1}).items()
    )
    return Route(
        "HTTPRoute/shop/load", "HTTPRoute shop/load", (LISTENER.id,), (),
        (Rule("HTTPRoute/shop/load/0", (Match("/load"),), backends=backends),),
    )  # fmt: skip


def others(seed: int, count: int = OTHERS) -> tuple[Route, ...]:
    """Routes beside the one under load, different ones for each seed.

    Some are edited (paths, filters), split (weights), reordered (rules, and the ages that rank routes), some are not there.
    Many match paths below or beside the loaded one's, on other hosts or for other methods.
    """
    rng = random.Random(seed)
    found = []
    for number in range(count):
        if rng.random() < 0.1:
            continue  # deleted
        name = f"HTTPRoute/shop/other-{number:04}"
        paths = [f"/other-{number}", f"/load/deeper-{number}", "/load" if number % 3 else "/"]
        rng.shuffle(paths)
        rules = []
        for index, path in enumerate(paths):
            share = rng.randint(0, 100)
            filters = (HeaderModifier("request", add=(("x-edit", str(rng.random())),)),) if rng.random() < 0.3 else ()
            backends = (WeightedBackend("shop/orders", share), WeightedBackend("shop/other", 100 - share))
            method = "DELETE" if path in ("/load", "/") else ""
            rules.append(Rule(f"{name}/{index}", (Match(path, method=method),), filters=filters, backends=backends))
        hosts = (f"host-{rng.randint(0, 50)}.example",) if number % 2 else ()
        created = f"2025-01-{rng.randint(1, 28):02}T00:00:00Z"
        found.append(Route(name, f"HTTPRoute shop/other-{number:04}", (LISTENER.id,), hosts, tuple(rules), created))
    return tuple(found)


def snapshot(route: Route | None = None, *, services: tuple[str, ...] = ("orders",), seed: int = 0) -> Snapshot:
    """A Snapshot with the loaded route and the others of a seed. services: that have an upstream beside `other`."""
    return Snapshot(
        listeners=(LISTENER,),
        routes=tuple(sorted((route or loaded(), *others(seed)), key=lambda each: each.id)),
        upstreams=tuple(sorted((upstream(each) for each in {*services, "other"}), key=lambda each: each.id)),
    )
