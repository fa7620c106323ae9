"""Filters of routes: what happens to requests and answers on their way."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from nexus_core.model.base import ForeignModel
from nexus_core.model.gateway_api.shared import BackendObjectRef


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


class MirrorBackendRef(BackendObjectRef):
    """Where copies go."""


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
    """type says which one of the settings is there. The last two are known, and not carried out."""

    type: str
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    url_rewrite: URLRewriteFilter | None = Field(default=None, alias="urlRewrite")
    request_redirect: RedirectFilter | None = None
    request_mirror: MirrorFilter | None = None
    cors: CORSFilter | None = None
    external_auth: Any = None
    extension_ref: Any = None
