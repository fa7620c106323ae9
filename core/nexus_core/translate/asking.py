"""What routes ask of the world around them while they are built, each question written down; see `memory`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Persistence, Upstream
from nexus_core.translate.backend_tls import Refused
from nexus_core.translate.gateways import Gateways, OpenListener
from nexus_core.translate.memory import Log
from nexus_core.translate.references import Grants
from nexus_core.translate.upstreams import Caller, Upstreams
from nexus_core.translate.worlds import World


class Asking:
    """Answers as the world, its Gateways, grants and upstreams do. log: of the route that is being built."""

    def __init__(self, world: World, gateways: Gateways, grants: Grants, upstreams: Upstreams) -> None:
        self._world, self._gateways, self._grants, self._upstreams = world, gateways, grants, upstreams
        self.log = Log()
        self.subjects: Mapping[Callable[..., Any], Any] = {
            World.find: world,
            Gateways.listeners_of: gateways,
            Gateways.refusal_of: gateways,
            Grants.permit: grants,
            Upstreams.kubernetes_service: upstreams,
            Upstreams.find: upstreams,
            Upstreams.speaking: upstreams,
            Upstreams.sticky: upstreams,
        }

    def listeners_of(self, parent: ObjectRef) -> tuple[OpenListener, ...] | None:
        """As `Gateways.listeners_of`."""
        return self.log.ask(Gateways.listeners_of, self._gateways, parent)

    def refusal_of(self, parent: ObjectRef) -> str:
        """As `Gateways.refusal_of`."""
        return self.log.ask(Gateways.refusal_of, self._gateways, parent)

    def namespace(self, name: str) -> Resource | None:
        """Return the namespace, whose labels listeners may look at."""
        return self.log.ask(World.find, self._world, "Namespace", "", name)

    def permit(
        self, from_kind: str, from_namespace: str, to_group: str, to_kind: str, to_namespace: str, to_name: str
    ) -> bool:
        """As `Grants.permit`."""
        if from_namespace == to_namespace:
            return True  # whatever is granted
        return self.log.ask(
            Grants.permit, self._grants, from_kind, from_namespace, to_group, to_kind, to_namespace, to_name
        )

    def kubernetes_service(self, namespace: str, name: str, port: int, caller: Caller) -> Upstream | Refused:
        """As `Upstreams.kubernetes_service`."""
        return self.log.ask(Upstreams.kubernetes_service, self._upstreams, namespace, name, port, caller)

    def upstream(self, upstream_id: str) -> Upstream | None:
        """As `Upstreams.find`."""
        return self.log.ask(Upstreams.find, self._upstreams, upstream_id)

    def speaking(self, upstream: Upstream, caller: Caller) -> str:
        """As `Upstreams.speaking`."""
        return self.log.ask(Upstreams.speaking, self._upstreams, upstream, caller)

    def sticky(self, upstream_id: str, persistence: Persistence) -> str:
        """As `Upstreams.sticky`."""
        return self.log.ask(Upstreams.sticky, self._upstreams, upstream_id, persistence)

    def trouble(self) -> None:
        """Say that what is being built depends on more than was asked: on its last good version, or on all there is."""
        self.log.sound = False
