"""Which upstreams a kept route may still lead to: what one namespace gave another leave for, it may have taken back since.

A last good version remembers upstreams, not the references that named them, so they are judged by their ids.
"""

from __future__ import annotations

from nexus_core.model import policies
from nexus_core.model.kinds import GROUP
from nexus_core.problems import ObjectRef
from nexus_core.translate.references import Grants
from nexus_core.translate.upstreams import service_of
from nexus_core.translate.worlds import World


class Leave:
    """The leave that routes of the Gateway API have now."""

    def __init__(self, world: World) -> None:
        self._world, self._grants = world, Grants(world)

    def permits(self, route: ObjectRef, upstream_id: str) -> bool:
        """Whether the route may lead to the upstream. What a NexusService exposes is its own business."""
        if route.kind == "NexusService":
            return True
        group, kind, namespace, name = _behind(upstream_id)
        return self._grants.permit(route.kind, route.namespace, group, kind, namespace, name)

    def permits_copies(self, route: ObjectRef, upstream_id: str) -> bool:
        """Whether copies may go there: with the route's own leave, or because a NexusPolicy of that namespace says so, which may be on
        a Gateway and needs nobody's leave.
        """
        if self.permits(route, upstream_id):
            return True
        group, _, namespace, name = _behind(upstream_id)
        return group == GROUP and any(
            isinstance(r.spec, policies.NexusPolicySpec) and r.spec.mirror is not None and r.spec.mirror.service == name
            for r in self._world.all("NexusPolicy")
            if r.ref.namespace == namespace
        )


def _behind(upstream_id: str) -> tuple[str, str, str, str]:
    """Return group, kind, namespace and name of the object that an upstream is made of."""
    service = service_of(upstream_id)
    if service is not None:
        return "", "Service", service[0], service[1]
    namespace, _, rest = upstream_id.partition("/")
    return GROUP, "NexusService", namespace, rest.partition("/")[0]
