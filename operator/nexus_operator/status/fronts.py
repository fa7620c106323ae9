"""What the cluster says of the data planes: their Services, and the pods behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nexus_operator.children.dataplanes import DataPlane, name_of
from nexus_operator.children.gateways import Planned
from nexus_operator.children.plan import is_unowned, owner_uid
from nexus_operator.publication.fleets import Replica
from nexus_operator.status.view import Front
from nexus_operator.world.addresses import addresses_of
from nexus_operator.world.inventory import Inventory, Key, Object
from nexus_operator.world.kinds import GATEWAY_NAME, POD, SERVICE


def fronts_of(inventory: Inventory, planned: Planned, slices: Mapping[Key, Iterable[Object]]) -> dict[str, Front]:
    """Return what stands before each data plane, by `<namespace>/<name>` of its Gateway. slices: by Service."""
    fronts: dict[str, Front] = {}
    for gateway, plane in planned.all.items():
        key = (plane.namespace, name_of(plane.gateway.name))
        service = inventory.get(SERVICE.kind, *key)
        if service is None or not _is_of(service, plane):
            # One of that name which somebody else made leads elsewhere.
            fronts[gateway] = Front(exists=False)
            continue
        ports = frozenset(int(each["port"]) for each in (service.get("spec") or {}).get("ports") or ())
        fronts[gateway] = Front(True, addresses_of(service), _ready(slices.get(key, ())), ports)
    return fronts


def _is_of(service: Object, plane: DataPlane) -> bool:
    """Whether the operator made a Service for a data plane. One without an owner is what stood in while there was no Gateway."""
    owner = owner_uid(service)
    return is_unowned(service) if not owner else plane.owner is not None and owner == plane.owner["uid"]


def _ready(slices: Iterable[Object]) -> int:
    ready: set[str] = set()
    for piece in slices:
        for endpoint in piece.get("endpoints") or ():
            # An absent `ready` means ready (discovery/v1).
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                target = endpoint.get("targetRef") or {}
                ready.add(str(target.get("name") or (endpoint.get("addresses") or [""])[0]))
    return len(ready)


def replicas_of(inventory: Inventory, planned: Planned) -> dict[str, Replica]:
    """Return the pods of all data planes, by name."""
    gateways = {(plane.namespace, plane.label): name for name, plane in planned.all.items()}
    found: dict[str, Replica] = {}
    for pod in inventory.all(POD.kind):
        meta = pod["metadata"]
        gateway = gateways.get((str(meta.get("namespace") or ""), (meta.get("labels") or {}).get(GATEWAY_NAME, "")))
        if gateway is None or meta.get("deletionTimestamp"):
            continue
        conditions = (pod.get("status") or {}).get("conditions") or ()
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        found[str(meta["name"])] = Replica(gateway, ready)
    return found
