"""Every filter the gateway knows, written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nexus_core.snapshot import Filter, HeaderModifier, Redirect, UrlRewrite

from nexus_gateway.filters.headers import HeaderFilter
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.filters.redirects import RedirectFilter
from nexus_gateway.filters.rewrites import RewriteFilter

FILTERS: Mapping[type, Callable[[Any], HeadFilter]] = {
    HeaderModifier: HeaderFilter,
    UrlRewrite: RewriteFilter,
    Redirect: RedirectFilter,
}
"""Policy of the Snapshot → the filter that carries it out."""


def build_filters(policies: Iterable[Filter]) -> tuple[HeadFilter, ...]:
    """Return the filters of a rule or backend, in the user's order."""
    return tuple(FILTERS[type(policy)](policy) for policy in policies)
