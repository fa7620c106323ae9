"""kopf's handlers: only plain event handlers, so that kopf writes nothing; each puts its event into the inventory.

The way from a real API server through them is in `tests/cluster/test_operator.py` (kmock 0.8 cannot list Namespaces).
"""

from __future__ import annotations

from typing import Any

import kopf
import pytest
from nexus_operator import handlers
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED, Kind
from nexus_operator.world.trims import trim


async def login() -> kopf.ConnectionInfo:
    return kopf.ConnectionInfo(server="http://127.0.0.1:1")


class Seen:
    """A registry, and what its handlers told."""

    def __init__(self) -> None:
        self.inventory = Inventory(kind.kind for kind in WATCHED)
        self.changed: list[str] = []
        self.relisted: list[Kind] = []
        self.registry = handlers.build_registry(
            self.inventory, login=login, changed=self.changed.append, relisted=self.relisted.append
        )

    async def event(self, kind: Kind, type_: str | None, obj: dict[str, Any]) -> None:
        [handler] = [
            h
            for h in self.registry._watching.get_all_handlers()
            if h.selector is not None
            and (h.selector.group, h.selector.plural or h.selector.any_name) == (kind.group, kind.plural)
        ]
        await handler.fn(event={"type": type_, "object": obj}, logger=None)


@pytest.mark.parametrize("kind", WATCHED, ids=lambda kind: kind.kind)
async def test_an_event_of_each_kind_reaches_the_inventory(kind: Kind) -> None:
    seen = Seen()
    namespace = "shop" if kind.namespaced else ""
    obj: dict[str, Any] = {"metadata": {"name": "a", "namespace": namespace, "resourceVersion": "1"}}
    obj |= {"data": {"ca.crt": "pem"}} if kind.kind == "ConfigMap" else {}
    await seen.event(kind, None, obj)
    assert (seen.changed, seen.relisted) == ([kind.kind], [kind])
    assert seen.inventory.get(kind.kind, namespace, "a") == trim(kind.kind, obj)
    await seen.event(kind, "DELETED", {"metadata": {**obj["metadata"], "resourceVersion": "2"}})
    assert seen.inventory.count(kind.kind) == 0
    assert seen.changed == [kind.kind] * 2
    assert seen.relisted == [kind], "a deletion is no list"


def test_kopf_has_nothing_to_keep_notes_about() -> None:
    """Handlers of creations, updates and timers would make kopf write finalizers and annotations."""
    registry = Seen().registry
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()
    settings = handlers.build_settings()
    assert not settings.posting.enabled
    assert settings.peering.standalone


def test_patience_never_ends() -> None:
    waits = [wait for wait, _ in zip(handlers.Patience(), range(100), strict=False)]
    assert len(waits) == 100
    assert waits[0] < 1
    assert max(waits) == waits[-1] <= 5
    assert next(iter(handlers.Patience())) == waits[0], "each request starts anew"
