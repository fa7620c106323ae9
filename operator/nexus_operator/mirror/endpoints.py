"""EndpointSlices → catalog registrations.

One registration per (Consul service, address, port). An endpoint that is not ready, or terminating, stays registered with
a critical check, so that nobody who asks Consul chooses it; one that is gone is deregistered. One that terminates is marked
as draining, too: gateways send it no new requests and let it finish those it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nexus_core.translate import Mirror

from nexus_operator.mirror.registrations import Registration
from nexus_operator.world.inventory import Inventory, Object, key_of

SERVICE_LABEL = "kubernetes.io/service-name"
_FAMILIES = {"IPv4": "IPv4", "IPv6": "IPv6"}
_META_LIMIT = 512
"""Consul refuses service meta values longer than this."""


def slices_by_service(inventory: Inventory) -> dict[tuple[str, str], list[Object]]:
    """Return the EndpointSlices by (namespace, service name)."""
    found: dict[tuple[str, str], list[Object]] = {}
    for obj in inventory.all("EndpointSlice"):
        name = (obj["metadata"].get("labels") or {}).get(SERVICE_LABEL)
        if name:
            found.setdefault((key_of(obj)[0], name), []).append(obj)
    return found


def named_services(slices: Mapping[tuple[str, str], Iterable[Object]]) -> frozenset[tuple[str, str]]:
    """Return the Services, as (namespace, name), with EndpointSlices of host names: nobody looks those up, so they are not
    registered. slices: by Service.
    """
    return frozenset(key for key, own in slices.items() if any(s.get("addressType") not in _FAMILIES for s in own))


def build_registrations(
    mirrors: Iterable[Mirror],
    services: Mapping[tuple[str, str], Object],
    slices: Mapping[tuple[str, str], Iterable[Object]],
    installation: str,
) -> dict[str, Registration]:
    """Return every registration the catalog should hold, by id. A Service that does not exist has none.

    installation: marks them, so that gateways of another cluster in the same Consul leave them alone.
    """
    wanted: dict[str, Registration] = {}
    for mirror in mirrors:
        key = (mirror.namespace, mirror.service)
        service = services.get(key)
        if service is None:
            continue
        for entry in _of_mirror(mirror, service, slices.get(key, ()), installation):
            known = wanted.get(entry.id)
            # One endpoint may stand in two slices while they are reshuffled: ready in any is ready.
            if known is None or (entry.passing and not known.passing):
                wanted[entry.id] = entry
    return wanted


def _of_mirror(mirror: Mirror, service: Object, slices: Iterable[Object], installation: str) -> Iterable[Registration]:
    spec = service.get("spec") or {}
    # A Service may have one number twice: for TCP and for UDP.
    fitting = (p for p in spec.get("ports") or () if (p.get("protocol") or "TCP") == mirror.protocol)
    port = next((p for p in fitting if p.get("port") == mirror.port), None)
    if port is None:
        return
    # Dual-stack Services have slices of both families with the same pods: the Service's first family is the one it prefers.
    family = next(iter(spec.get("ipFamilies") or ()), "")
    for piece in slices:
        if piece.get("addressType") not in _FAMILIES or (family and piece["addressType"] != family):
            continue
        number = next(
            (p.get("port") for p in piece.get("ports") or () if (p.get("name") or "") == (port.get("name") or "")), None
        )
        if not number:
            continue
        for endpoint in piece.get("endpoints") or ():
            for address in endpoint.get("addresses") or ():
                yield _registration(mirror, endpoint, str(address), int(number), installation)


def _registration(
    mirror: Mirror, endpoint: Mapping[str, Any], address: str, port: int, installation: str
) -> Registration:
    conditions = endpoint.get("conditions") or {}
    # An absent `ready` means ready (discovery/v1).
    terminating = bool(conditions.get("terminating"))
    passing = conditions.get("ready") is not False and not terminating
    target = endpoint.get("targetRef") or {}
    pod = str(target.get("name") or address)
    meta = {**mirror.meta, "nexus-installation": installation}
    if endpoint.get("zone"):
        meta["nexus-zone"] = str(endpoint["zone"])
    if terminating:
        meta["nexus-draining"] = "true"
    return Registration(
        id=f"{mirror.consul_service}/{pod}:{port}",
        service=mirror.consul_service,
        address=address,
        port=port,
        passing=passing,
        tags=tuple(sorted(mirror.tags)),
        meta=tuple(sorted((k, v[:_META_LIMIT]) for k, v in meta.items())),
    )
