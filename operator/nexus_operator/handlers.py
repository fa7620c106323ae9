"""kopf's side of the operator: every watched event goes into the inventory, and wakes the reconciliation.

Only `on.event` is used: kopf then writes nothing to any object, no annotation, no finalizer, no `status.kopf`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf

from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED, Kind

BACKOFFS_S = (0.2, 0.5, 1.0, 2.0)
LAST_BACKOFF_S = 3.0
IDLE_S = 0.1


class Patience:
    """Waits between tries of a request to the API server: growing, then the same, without end.

    kopf's own list ends after a minute, and the operator with it; ours must outlive any outage.
    """

    def __iter__(self) -> Iterator[float]:
        yield from BACKOFFS_S
        while True:
            yield LAST_BACKOFF_S


def build_registry(
    inventory: Inventory,
    *,
    login: Callable[[], Awaitable[kopf.ConnectionInfo]],
    changed: Callable[[str], None],
    relisted: Callable[[Kind], None],
) -> kopf.OperatorRegistry:
    """Return the handlers of all watched kinds.

    changed: called with the kind when an object changed in a way that matters. relisted: called for every object that
    kopf delivers from a list of its own, which it makes when a watch (re)starts; deletions may then have been missed.
    """
    registry = kopf.OperatorRegistry()

    async def authenticate(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    kopf.on.login(registry=registry)(authenticate)
    for kind in WATCHED:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(
            _handler(kind, inventory, changed, relisted)
        )
    return registry


def _handler(
    kind: Kind, inventory: Inventory, changed: Callable[[str], None], relisted: Callable[[Kind], None]
) -> Callable[..., Awaitable[None]]:
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] is None:
            relisted(kind)
        if inventory.observe(kind.kind, event["object"], deleted=event["type"] == "DELETED"):
            changed(kind.kind)

    return observe


def build_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: no events posted, no peering, endless patience, server-side selectors."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.error_backoffs = Patience()
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 60
    settings.watching.connect_timeout = 5
    settings.watching.reconnect_backoff = 0.2
    # kopf has a task for each object that something happened to, and each keeps its last event for so long, managedFields and all:
    # thousands of statuses that we write ourselves come back as events.
    settings.queueing.idle_timeout = IDLE_S
    settings.queueing.exit_timeout = 0.5
    settings.background.instant_exit_timeout = 0.1
    for kind in WATCHED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return settings
