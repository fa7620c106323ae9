"""The kinds of the Kubernetes Gateway API, as far as Nexus reads them. Fields that are missing here are reported, never ignored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nexus_core.model.base import ForeignModel, ThinModel

GROUP = "gateway.networking.k8s.io"


class ParentRef(ForeignModel):
    """The Gateway (and listener) a route wants to attach to."""

    group: str = GROUP
    kind: str = "Gateway"
    namespace: str | None = None
    name: str
    section_name: str | None = None
    port: int | None = None


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


class HTTPHeader(ForeignModel):
    """A header to set or add."""

    name: str
    value: str


class HeaderFilter(ForeignModel):
    """Changes to the headers of the request or the response."""

    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(ForeignModel):
    """type: `ReplaceFullPath` or `ReplacePrefixMatch`, with the setting of that name."""

    type: str
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class URLRewriteFilter(ForeignModel):
    """A change of host and path before the request goes on."""

    hostname: str = ""
    path: PathModifier | None = None


class RedirectFilter(ForeignModel):
    """An answer that sends the client elsewhere."""

    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    status_code: int = 302


class MirrorBackendRef(ForeignModel):
    """Where copies go. namespace: None for the route's own."""

    group: str = ""
    kind: str = "Service"
    name: str
    namespace: str | None = None
    port: int | None = None


class Fraction(ForeignModel):
    """A share of requests."""

    numerator: int = Field(ge=0)
    denominator: int = Field(default=100, ge=1)


class MirrorFilter(ForeignModel):
    """A copy of requests for another backend. Neither percent nor fraction: all of them."""

    backend_ref: MirrorBackendRef
    percent: int | None = Field(default=None, ge=0, le=100)
    fraction: Fraction | None = None


class CORSFilter(ForeignModel):
    """Which pages of other origins may call."""

    allow_origins: tuple[str, ...] = Field(default=(), max_length=64)
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = Field(default=(), max_length=9)
    allow_headers: tuple[str, ...] = Field(default=(), max_length=64)
    expose_headers: tuple[str, ...] = Field(default=(), max_length=64)
    max_age: int = Field(default=5, ge=0)


class RouteFilter(ForeignModel):
    """type says which one of the settings is there."""

    type: str
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    url_rewrite: URLRewriteFilter | None = Field(default=None, alias="urlRewrite")
    request_redirect: RedirectFilter | None = None
    request_mirror: MirrorFilter | None = None
    cors: CORSFilter | None = None


class BackendRef(ForeignModel):
    """A share of the requests. namespace: None for the route's own."""

    group: str = ""
    kind: str = "Service"
    name: str
    namespace: str | None = None
    port: int | None = None
    weight: int = Field(default=1, ge=0, le=1_000_000)
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


class RouteRule(ForeignModel):
    """No matches mean every path."""

    name: str | None = None
    matches: tuple[RouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: RouteTimeouts | None = None
    retry: RouteRetry | None = None


class HTTPRouteSpec(ForeignModel):
    """Which requests of which Gateways go where."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class Expression(ThinModel):
    """One requirement of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(ThinModel):
    """Which objects are meant, by their labels."""

    match_labels: dict[str, str] = Field(default={})
    match_expressions: tuple[Expression, ...] = ()

    def selects(self, labels: Any) -> bool:
        """Whether an object with these labels is meant. An empty selector means every object."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        for e in self.match_expressions:
            holds = {
                "In": labels.get(e.key) in e.values,
                "NotIn": labels.get(e.key) not in e.values,
                "Exists": e.key in labels,
                "DoesNotExist": e.key not in labels,
            }
            if not holds[e.operator]:
                return False
        return True


class AllowedNamespaces(ForeignModel):
    """from: `Same`, `All` or `Selector`."""

    from_: str = Field(default="Same", alias="from")
    selector: LabelSelector | None = None


class RouteGroupKind(ForeignModel):
    """A kind of route."""

    group: str = GROUP
    kind: str


class AllowedRoutes(ForeignModel):
    """Which routes may attach to a listener."""

    namespaces: AllowedNamespaces = AllowedNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class ListenerSpec(ForeignModel):
    """A listener as its author wrote it."""

    name: str
    hostname: str | None = None
    port: int = Field(ge=1, le=65535)
    protocol: str
    tls: Any = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(ForeignModel):
    """The listeners of a Gateway, and whose they are."""

    gateway_class_name: str
    listeners: tuple[ListenerSpec, ...]


class GatewayClassSpec(ThinModel):
    """Which controller serves the Gateways of a class."""

    controller_name: str


class GrantFrom(ThinModel):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


class GrantTo(ThinModel):
    """What may be referred to. name: None for every object of the kind."""

    group: str
    kind: str
    name: str | None = None


class ReferenceGrantSpec(ThinModel):
    """A namespace's permission for others to use its objects."""

    from_: tuple[GrantFrom, ...] = Field(alias="from")
    to: tuple[GrantTo, ...]
