"""HTTPRoute, and the kinds of routes that are told apart by what they match."""

from __future__ import annotations

from pydantic import Field

from nexus_core.model.base import ForeignModel
from nexus_core.model.gateway_api.filters import RouteFilter
from nexus_core.model.gateway_api.shared import ParentRef, WeightedBackendRef


class PathMatch(ForeignModel):
    """type: `PathPrefix`, `Exact` or `RegularExpression`."""

    type: str = "PathPrefix"
    value: str = "/"


class HTTPHeaderMatch(ForeignModel):
    """type: `Exact` or `RegularExpression`."""

    type: str = "Exact"
    name: str
    value: str


class QueryParamMatch(ForeignModel):
    """type: `Exact` or `RegularExpression`."""

    type: str = "Exact"
    name: str
    value: str


class RouteMatch(ForeignModel):
    """All parts must hold. method: empty for any."""

    path: PathMatch = PathMatch()
    headers: tuple[HTTPHeaderMatch, ...] = ()
    query_params: tuple[QueryParamMatch, ...] = ()
    method: str = ""


class BackendRef(WeightedBackendRef):
    """A share of the requests."""

    filters: tuple[RouteFilter, ...] = ()


class RouteTimeouts(ForeignModel):
    """Durations as text; see `translate.durations`."""

    request: str | None = None
    backend_request: str | None = None


class RouteRetry(ForeignModel):
    """Which answers are repeated, how often, and when at the earliest. backoff: see `translate.durations`."""

    codes: tuple[int, ...] = ()
    attempts: int | None = Field(default=None, ge=1)
    backoff: str | None = None


class CookieConfig(ForeignModel):
    """lifetime_type: `Session` or `Permanent`."""

    lifetime_type: str = "Session"


class SessionPersistence(ForeignModel):
    """How clients are kept at their endpoint. type: `Cookie` or `Header`. absolute_timeout: see `translate.durations`."""

    session_name: str | None = None
    absolute_timeout: str | None = None
    type: str = "Cookie"
    cookie_config: CookieConfig | None = None


class RouteRule(ForeignModel):
    """No matches mean every path."""

    name: str | None = None
    matches: tuple[RouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: RouteTimeouts | None = None
    retry: RouteRetry | None = None
    session_persistence: SessionPersistence | None = None


class HTTPRouteSpec(ForeignModel):
    """Which requests of which Gateways go where."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)
