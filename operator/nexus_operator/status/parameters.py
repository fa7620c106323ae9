"""Statuses of NexusGatewayParameters: whether they can be used. Who uses them shows on the Gateways."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_operator.status.conditions import Condition, from_problems, merge
from nexus_operator.status.view import PAGES, View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.kinds import NEXUS_GATEWAY_PARAMETERS


def build(view: View) -> Iterator[StatusWrite]:
    """Yield the statuses of all NexusGatewayParameters."""
    for resource in view.resources:
        if resource.ref.kind != NEXUS_GATEWAY_PARAMETERS.kind:
            continue
        obj = view.inventory.get(resource.ref.kind, resource.ref.namespace, resource.ref.name)
        if obj is None:
            continue
        accepted = Condition("Accepted", "True", "Accepted")
        if resource.problems:
            accepted = from_problems("Accepted", resource.problems, docs_base=view.docs_base, pages=PAGES)
        generation = int(obj["metadata"].get("generation") or 0)
        held = (obj.get("status") or {}).get("conditions") or ()
        conditions = merge(held, [accepted], generation=generation, now_utc=view.now_utc)
        yield StatusWrite(resource.ref.kind, obj, {"observedGeneration": generation, "conditions": conditions})
