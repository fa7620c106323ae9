"""ReferenceGrants: which namespaces let which others use their objects."""

from __future__ import annotations

from nexus_core.model import gateway_api
from nexus_core.model.kinds import GROUP
from nexus_core.translate.worlds import World

PLUGINS = f"{GROUP}/NexusPlugin"
"""What may be granted something beside the Gateway API's kinds."""


class Grants:
    """All grants, by the namespaces between which they hold."""

    def __init__(self, world: World) -> None:
        # By whom, where and what kind: the names that are granted, empty for all of them.
        self._names: dict[tuple[str, str, str, str, str], set[str]] = {}
        for resource in world.all("ReferenceGrant"):
            spec = resource.spec
            if not isinstance(spec, gateway_api.ReferenceGrantSpec):
                continue
            for grantee in spec.from_:
                kind = grantee.kind if grantee.group == gateway_api.GROUP else f"{grantee.group}/{grantee.kind}"
                if kind == PLUGINS or "/" not in kind:
                    for to in spec.to:
                        key = (kind, grantee.namespace, resource.ref.namespace, to.group, to.kind)
                        self._names.setdefault(key, set()).add(to.name or "")

    def permit(
        self, from_kind: str, from_namespace: str, to_group: str, to_kind: str, to_namespace: str, to_name: str
    ) -> bool:
        """Whether objects of `from_kind` in `from_namespace` may name this one. from_kind: one of the Gateway API's, or `PLUGINS`.

        Within one namespace everything may.
        """
        if from_namespace == to_namespace:
            return True
        names = self._names.get((from_kind, from_namespace, to_namespace, to_group, to_kind))
        return names is not None and ("" in names or to_name in names)
