"""ReferenceGrants: which namespaces let which others use their objects."""

from __future__ import annotations

from nexus_core.model import gateway_api
from nexus_core.translate.worlds import World


class Grants:
    """All grants, by the namespaces between which they hold."""

    def __init__(self, world: World) -> None:
        self._to: dict[tuple[str, str, str], list[gateway_api.GrantTo]] = {}
        for resource in world.all("ReferenceGrant"):
            spec = resource.spec
            if not isinstance(spec, gateway_api.ReferenceGrantSpec):
                continue
            for grantee in spec.from_:
                if grantee.group == gateway_api.GROUP:
                    key = (grantee.kind, grantee.namespace, resource.ref.namespace)
                    self._to.setdefault(key, []).extend(spec.to)

    def permit(
        self, from_kind: str, from_namespace: str, to_group: str, to_kind: str, to_namespace: str, to_name: str
    ) -> bool:
        """Whether objects of `from_kind` in `from_namespace` may name this one. from_kind: one of the Gateway API's.

        Within one namespace everything may.
        """
        return from_namespace == to_namespace or any(
            to.group == to_group and to.kind == to_kind and to.name in (None, "", to_name)
            for to in self._to.get((from_kind, from_namespace, to_namespace), ())
        )
