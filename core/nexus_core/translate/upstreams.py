"""Upstreams under construction: those of NexusServices, and of Kubernetes Services as routes ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from nexus_core.model import kubernetes
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Discovered, Upstream
from nexus_core.translate.translation import Mirror
from nexus_core.translate.worlds import World


@dataclass
class Upstreams:
    """by_id: upstreams found so far. mirrors: by name in the registry. kept: ids of last good versions."""

    world: World
    by_id: dict[str, Upstream] = field(default_factory=dict)
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    def kubernetes_service(self, namespace: str, name: str, port: int) -> Upstream | str:
        """Return the upstream of a Kubernetes Service's port, made when first asked for; or what is wrong, as a sentence."""
        found = mirror_of(self.world, namespace, name, port)
        if isinstance(found, str):
            return found
        source = str(ObjectRef("Service", namespace, name))
        upstream = Upstream(f"Service/{namespace}/{name}/{port}", source, Discovered(found.consul_service))
        self.mirrors.setdefault(found.consul_service, found)
        return self.by_id.setdefault(upstream.id, upstream)

    def keep(self, upstream_id: str) -> bool:
        """Whether the upstream of a kept route is there; a Kubernetes Service's is made again, if the Service still is."""
        if upstream_id in self.by_id:
            return True
        kind, *parts = upstream_id.split("/")
        if kind != "Service" or len(parts) != 3 or not parts[2].isdigit():
            return False
        return isinstance(self.kubernetes_service(parts[0], parts[1], int(parts[2])), Upstream)


def mirror_of(world: World, namespace: str, name: str, port: int, meta: dict[str, str] | None = None) -> Mirror | str:
    """Return the mirror of a Kubernetes Service's port, or what is wrong, as a sentence."""
    resource = world.find("Service", namespace, name)
    if resource is None:
        return f'There is no Service "{name}" in namespace "{namespace}".'
    spec = resource.spec
    if not isinstance(spec, kubernetes.ServiceSpec):
        return f'Service "{name}" in namespace "{namespace}" is broken.'
    if spec.type == "ExternalName":
        return f'Service "{name}" is of type ExternalName, whose endpoints Kubernetes does not know.'
    ports = sorted(p.port for p in spec.ports if p.protocol == "TCP")
    if port not in ports:
        return f'Service "{name}" has no TCP port {port}; it has {", ".join(map(str, ports)) or "none"}.'
    return Mirror(f"{name}.{namespace}.{port}", namespace, name, port, (), meta or {"nexus-namespace": namespace})
