"""Objects of the inventory as resources: each is parsed when it has changed, and not for a status that we wrote ourselves."""

from __future__ import annotations

from nexus_core.model.lean import lean
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource

from nexus_operator.world.inventory import Inventory, Key, Object, matters
from nexus_operator.world.kinds import CONFIG_MAP, RUNTIME, SECRET, WATCHED
from nexus_operator.world.packed import PACKED

PARTLY_KEPT = frozenset({SECRET.kind, CONFIG_MAP.kind})


class Reader:
    """Remembers what the objects were read as. What did not change is the same resource, by which translation knows it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Key], tuple[Object, Resource]] = {}

    def read(self, inventory: Inventory) -> tuple[Resource, ...]:
        """Return all resources that translation looks at, by kind, namespace and name."""
        read: dict[tuple[str, Key], tuple[Object, Resource]] = {}
        for kind in WATCHED:
            if kind.kind in RUNTIME:
                continue
            for at, obj in inventory.items(kind.kind):
                key = (kind.kind, at)
                known = self._known.get(key)
                if known is None or (known[0] is not obj and _differs(kind.kind, known[0], obj)):
                    resource = parse(obj)
                    known = (obj, lean(resource) if kind.kind in PACKED else resource)
                elif known[0] is not obj:
                    known = (obj, known[1])
                read[key] = known
        self._known = read
        return tuple(resource for _, resource in read.values())


def _differs(kind: str, old: Object, new: Object) -> bool:
    """Return whether an object has to be parsed again."""
    before, after = old["metadata"], new["metadata"]
    if before.get("resourceVersion") == after.get("resourceVersion") and before.get("uid") == after.get("uid"):
        # The same edition; of these kinds more or less of it is kept as more or less of it is named.
        return kind in PARTLY_KEPT and matters(kind, old, new)
    return before.get("generation") != after.get("generation") or matters(kind, old, new)
