"""GRPCRoute."""

from __future__ import annotations

from nexus_core.model.base import ForeignModel
from nexus_core.model.gateway_api.filters import RouteFilter
from nexus_core.model.gateway_api.routes import BackendRef, HTTPHeaderMatch, SessionPersistence
from nexus_core.model.gateway_api.shared import ParentRef


class GRPCMethodMatch(ForeignModel):
    """type: `Exact` or `RegularExpression`. service, method: None for any; one of them is there."""

    type: str = "Exact"
    service: str | None = None
    method: str | None = None


class GRPCRouteMatch(ForeignModel):
    """Both parts must hold. method: None for any."""

    method: GRPCMethodMatch | None = None
    headers: tuple[HTTPHeaderMatch, ...] = ()


class GRPCRouteRule(ForeignModel):
    """No matches mean every call."""

    name: str | None = None
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(ForeignModel):
    """Which gRPC calls of which Gateways go where."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRouteRule, ...] = ()
