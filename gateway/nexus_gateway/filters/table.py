"""Every filter of heads that the gateway knows, written out. The other kinds are sorted by `compiled.compile_rule`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nexus_core.snapshot import Cors, DirectReply, HeaderModifier, Redirect, UrlRewrite

from nexus_gateway.filters.cors import CorsFilter
from nexus_gateway.filters.direct_replies import DirectReplyFilter
from nexus_gateway.filters.headers import HeaderFilter
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.filters.redirects import RedirectFilter
from nexus_gateway.filters.rewrites import RewriteFilter

FILTERS: Mapping[type, Callable[[Any], HeadFilter]] = {
    HeaderModifier: HeaderFilter,
    UrlRewrite: RewriteFilter,
    Redirect: RedirectFilter,
    DirectReply: DirectReplyFilter,
    Cors: CorsFilter,
}
"""Policy of the Snapshot → the filter that carries it out."""
