"""Endpoints of Kubernetes Services where no cluster finds them: EndpointSlices that stand among the manifests.

In a cluster none does: there endpoints come and go by the second, and travel through the registry.
"""

from __future__ import annotations

from collections.abc import Iterable

from nexus_core.model import kubernetes
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import StaticAddresses
from nexus_core.translate.translation import Mirror
from nexus_core.translate.worlds import World

SERVICE_LABEL = "kubernetes.io/service-name"


class EndpointSlices:
    """The EndpointSlices of a world, by (namespace, Service)."""

    def __init__(self, world: World) -> None:
        self._of: dict[tuple[str, str], list[kubernetes.EndpointSliceContent]] = {}
        for resource in world.all("EndpointSlice"):
            service = resource.labels.get(SERVICE_LABEL, "")
            if service and isinstance(resource.spec, kubernetes.EndpointSliceContent):
                self._of.setdefault((resource.ref.namespace, service), []).append(resource.spec)

    def find(self, namespace: str, service: str, port: kubernetes.ServicePort) -> StaticAddresses | None:
        """Return the ready endpoints of a Service's port, in the order of the slices' names; None for a Service without any slice.

        There may be none in it: of a Service that has slices, all of which are empty or name other ports.
        """
        slices = self._of.get((namespace, service))
        if slices is None:
            return None
        found: dict[tuple[str, int], None] = {}
        for each in slices:
            number = _number(each.ports or (), port)
            if number is None:
                continue
            for endpoint in each.endpoints or ():
                if endpoint.conditions.ready is not False and not endpoint.conditions.terminating:
                    found.update(dict.fromkeys((address, number) for address in endpoint.addresses))
        return StaticAddresses(tuple(found))


def _number(ports: Iterable[kubernetes.SlicePort], wanted: kubernetes.ServicePort) -> int | None:
    for port in ports:
        if (port.name or "") == wanted.name and (port.protocol or "TCP") == wanted.protocol:
            return port.port
    return None


def find_unfounded(mirrors: Iterable[Mirror]) -> tuple[Problem, ...]:
    """Return a problem for each Service whose endpoints nobody tells, where there are files alone. mirrors: of their translation."""
    found = []
    for mirror in mirrors:
        if mirror.consul_service.count(".") < 2:
            continue  # a workload of a NexusService, and no Service that somebody wrote
        ref = ObjectRef("Service", mirror.namespace, mirror.service)
        what = f"Port {mirror.port} has no endpoints: without a cluster nobody looks for the pods of a Service."
        fix = f"Write an EndpointSlice with the label {SERVICE_LABEL}: {mirror.service} beside it, or name a NexusService in its place."
        found.append(Problem(ref, ".spec.selector", "NoEndpointSlice", what, fix))
    return tuple(dict.fromkeys(found))
