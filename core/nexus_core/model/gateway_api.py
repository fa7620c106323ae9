"""The kinds of the Kubernetes Gateway API, as far as Nexus reads them. Fields that are missing here are reported, never ignored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nexus_core.model.base import ForeignModel, ThinModel

GROUP = "gateway.networking.k8s.io"
Weight = int


class ParentRef(ForeignModel):
    group: str = GROUP
    kind: str = "Gateway"
    namespace: str | None = None
    name: str
    section_name: str | None = None
    port: int | None = None


class PathMatch(ForeignModel):
    type: str = "PathPrefix"
    value: str = "/"


class HTTPHeaderMatch(ForeignModel):
    type: str = "Exact"
    name: str
    value: str


class RouteMatch(ForeignModel):
    path: PathMatch = PathMatch()
    headers: tuple[HTTPHeaderMatch, ...] = ()
    method: str = ""


class HTTPHeader(ForeignModel):
    name: str
    value: str


class HeaderFilter(ForeignModel):
    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(ForeignModel):
    type: str
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class URLRewriteFilter(ForeignModel):
    hostname: str = ""
    path: PathModifier | None = None


class RedirectFilter(ForeignModel):
    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    status_code: int = 302


class RouteFilter(ForeignModel):
    type: str
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    url_rewrite: URLRewriteFilter | None = Field(default=None, alias="urlRewrite")
    request_redirect: RedirectFilter | None = None


class BackendRef(ForeignModel):
    group: str = ""
    kind: str = "Service"
    name: str
    namespace: str | None = None
    port: int | None = None
    weight: int = Field(default=1, ge=0, le=1_000_000)
    filters: tuple[RouteFilter, ...] = ()


class RouteTimeouts(ForeignModel):
    request: str | None = None
    backend_request: str | None = None


class RouteRule(ForeignModel):
    name: str | None = None
    matches: tuple[RouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: RouteTimeouts | None = None


class HTTPRouteSpec(ForeignModel):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class Expression(ThinModel):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(ThinModel):
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
    from_: str = Field(default="Same", alias="from")
    selector: LabelSelector | None = None


class RouteGroupKind(ForeignModel):
    group: str = GROUP
    kind: str


class AllowedRoutes(ForeignModel):
    namespaces: AllowedNamespaces = AllowedNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class ListenerSpec(ForeignModel):
    name: str
    hostname: str | None = None
    port: int = Field(ge=1, le=65535)
    protocol: str
    tls: Any = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(ForeignModel):
    gateway_class_name: str
    listeners: tuple[ListenerSpec, ...]


class GatewayClassSpec(ThinModel):
    controller_name: str


class GrantFrom(ThinModel):
    group: str
    kind: str
    namespace: str


class GrantTo(ThinModel):
    group: str
    kind: str
    name: str | None = None


class ReferenceGrantSpec(ThinModel):
    from_: tuple[GrantFrom, ...] = Field(alias="from")
    to: tuple[GrantTo, ...]
