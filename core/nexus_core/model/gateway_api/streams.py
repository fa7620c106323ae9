"""Routes below HTTP: TLSRoute, TCPRoute, UDPRoute."""

from __future__ import annotations

from nexus_core.model.base import ForeignModel
from nexus_core.model.gateway_api.shared import ParentRef, WeightedBackendRef


class StreamBackendRef(WeightedBackendRef):
    """A share of the connections."""


class StreamRule(ForeignModel):
    """Where connections go, by weight."""

    name: str | None = None
    backend_refs: tuple[StreamBackendRef, ...] = ()


class TLSRouteSpec(ForeignModel):
    """Which TLS connections of which Gateways go where, by the name their clients ask for."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[StreamRule, ...] = ()


class TCPRouteSpec(ForeignModel):
    """Which connections of which Gateways go where."""

    parent_refs: tuple[ParentRef, ...] = ()
    rules: tuple[StreamRule, ...] = ()


class UDPRouteSpec(ForeignModel):
    """Which datagrams of which Gateways go where."""

    parent_refs: tuple[ParentRef, ...] = ()
    rules: tuple[StreamRule, ...] = ()
