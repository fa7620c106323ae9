"""Which Gateways get a data plane, and what stays of those that cannot be used now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nexus_core.model.gateway_parameters import NexusGatewayParametersSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Snapshot, gateway_of
from nexus_core.translate import Translation
from nexus_core.translate.gateways import DEFAULT_GATEWAY
from nexus_core.translate.translation import Infrastructure

from nexus_operator.children.dataplanes import DataPlane, label_of, name_of
from nexus_operator.children.plan import ChildKey, owner_uid
from nexus_operator.world.inventory import Inventory, Key, Object
from nexus_operator.world.kinds import (
    DEPLOYMENT,
    GATEWAY,
    GATEWAY_CLASS,
    GATEWAY_CLASS_NAME,
    MANAGED_BY,
    NEXUS_GATEWAY_PARAMETERS,
    SERVICE,
    Kind,
)

DEFAULT_ID = f"{DEFAULT_GATEWAY.namespace}/{DEFAULT_GATEWAY.name}"
WITNESSES = (DEPLOYMENT.kind, SERVICE.kind)
"""Children that tell by which class they were made. Either may be missing: a Gateway without ports has no Service."""


@dataclass(frozen=True, slots=True)
class Planned:
    """planes: what is to run, by `<namespace>/<name>` of the Gateway. standing: those of Gateways that cannot be used now, which run on
    as they are, if they ever were made. owners, children: what stays as it is, see `Kept`.
    """

    planes: Mapping[str, DataPlane]
    standing: Mapping[str, DataPlane] = field(default_factory=dict)
    owners: frozenset[str] = frozenset()
    children: frozenset[ChildKey] = frozenset()

    @property
    def all(self) -> Mapping[str, DataPlane]:
        """Both, by the Gateway."""
        return {**self.standing, **self.planes}


def of_deleted_classes(inventory: Inventory) -> frozenset[ObjectRef]:
    """Return the Gateways whose class is not there, and was ours: what was made for them by that class is still there and says so. One
    that was moved to a class that nobody has has children of its class before.
    """
    return frozenset(
        ObjectRef(GATEWAY.kind, *key)
        for key, obj in inventory.items(GATEWAY.kind)
        if (name := _class_of(obj)) and inventory.get(GATEWAY_CLASS.kind, "", name) is None
        if any(_was_made_by(inventory.get(kind, key[0], name_of(key[1])), obj, name) for kind in WITNESSES)
    )


def _was_made_by(child: Object | None, gateway: Object, class_name: str) -> bool:
    """Whether the operator made an object for a Gateway while that was of a class."""
    if child is None or owner_uid(child) != str(gateway["metadata"].get("uid")):
        return False
    labels = child["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY[0]) == MANAGED_BY[1] and labels.get(GATEWAY_CLASS_NAME) == label_of(class_name)


def _class_of(gateway: Object) -> str:
    return str((gateway.get("spec") or {}).get("gatewayClassName") or "")


def plan_data_planes(
    translation: Translation,
    inventory: Inventory,
    parameters: Mapping[Key, Resource],
    *,
    namespace: str,
    default_parameters: Key | None,
) -> Planned:
    """Return the data planes of all Gateways of ours.

    parameters: the NexusGatewayParameters. namespace: where the one runs that stands in while there is no Gateway.
    default_parameters: names its parameters.
    """
    planes: dict[str, DataPlane] = {}
    standing: dict[str, DataPlane] = {}
    owners: set[str] = set()
    children: set[ChildKey] = set()
    for status in translation.gateways:
        obj = inventory.get(GATEWAY.kind, status.ref.namespace, status.ref.name)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            continue
        name = f"{status.ref.namespace}/{status.ref.name}"
        ports = open_ports(translation.snapshot, name)
        plane = DataPlane(
            gateway=status.ref,
            namespace=status.ref.namespace,
            infrastructure=replace(status.infrastructure, ports=ports),
            owner=owner_reference(GATEWAY, obj),
            class_name=_class_of(obj),
        )
        classless = inventory.get(GATEWAY_CLASS.kind, "", plane.class_name) is None
        if status.quarantined or not status.infrastructure.usable or classless:
            # Of a class that was deleted nobody knows the parameters: what runs by them must not be made what is usual.
            standing[name] = plane
            owners.add(str(obj["metadata"].get("uid")))
            continue
        planes[name] = plane
        if not ports:
            # A Service without ports does not exist, and one that was deleted loses its address: it waits for the next port.
            children.add((SERVICE.kind, plane.namespace, name_of(plane.gateway.name)))
    default = _default(
        translation, inventory, parameters.get(default_parameters) if default_parameters else None, namespace
    )
    if default is not None:
        planes[DEFAULT_ID] = default
    return Planned(planes, standing, frozenset(owners), frozenset(children))


def _default(
    translation: Translation, inventory: Inventory, parameters: Resource | None, namespace: str
) -> DataPlane | None:
    """The data plane that stands in while there is no Gateway.

    Where Gateways could be, it runs only once a NexusService is exposed: a load balancer costs money.
    """
    ports = open_ports(translation.snapshot, DEFAULT_ID)
    if translation.gateways or not ports:
        return None
    exposed = any(gateway_of(x) == DEFAULT_ID for route in translation.snapshot.routes for x in route.listeners)
    if inventory.is_installed(GATEWAY.kind) and not exposed:
        return None
    spec = parameters.spec if parameters is not None else None
    owner = None
    if parameters is not None and parameters.ref.namespace == namespace:  # owners live where their children do
        # So that it goes with the release that made the parameters.
        owner = owner_reference(NEXUS_GATEWAY_PARAMETERS, parameters.raw)
    return DataPlane(
        gateway=DEFAULT_GATEWAY,
        namespace=namespace,
        infrastructure=Infrastructure(
            parameters=spec if isinstance(spec, NexusGatewayParametersSpec) else None,
            ports=ports,
        ),
        owner=owner,
    )


def open_ports(snapshot: Snapshot, gateway: str) -> tuple[tuple[int, Literal["TCP", "UDP"]], ...]:
    """Return what the Service of a Gateway has to open, sorted. gateway: `<namespace>/<name>`."""
    found: set[tuple[int, Literal["TCP", "UDP"]]] = set()
    for listener in snapshot.listeners:
        if listener.gateway == gateway:
            found.add((listener.port, "UDP" if listener.protocol == "UDP" else "TCP"))
    return tuple(sorted(found))


def owner_reference(kind: Kind, obj: Object) -> dict[str, Any]:
    """Return the reference by which an object owns what is made for it."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
