"""ReferenceGrants: which namespaces let which others use their objects."""

from __future__ import annotations

from nexus_core.model import gateway_api
from nexus_core.translate.worlds import World


class Grants:
    """All grants, by the namespaces between which they hold."""

    def __init__(self, world: World) -> None:
        self._to: dict[tuple[str, str], list[gateway_api.GrantTo]] = {}
        for resource in world.all("ReferenceGrant"):
            spec = resource.spec
            if not isinstance(spec, gateway_api.ReferenceGrantSpec):
                continue
            for grantee in spec.from_:
                if grantee.group == gateway_api.GROUP and grantee.kind == "HTTPRoute":
                    self._to.setdefault((grantee.namespace, resource.ref.namespace), []).extend(spec.to)

    def permit(self, route_namespace: str, group: str, kind: str, namespace: str, name: str) -> bool:
        """Whether HTTPRoutes of `route_namespace` may name an object of `namespace`."""
        return any(
            to.group == group and to.kind == kind and to.name in (None, "", name)
            for to in self._to.get((route_namespace, namespace), ())
        )
