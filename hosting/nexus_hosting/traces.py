"""Whose request a plugin works on, so that what it calls meanwhile is part of the same trace."""

from __future__ import annotations

from contextvars import ContextVar

from nexus_core.hooks import Headers

TRACEPARENT = "traceparent"

current: ContextVar[str] = ContextVar("traceparent", default="")
"""Value of the header `traceparent` for what is called now; empty for none. Tasks have it from whoever made them."""


def traced(headers: Headers) -> Headers:
    """Return the headers of a call with those of the trace, unless it has some."""
    trace = current.get()
    if not trace or any(name.lower() == TRACEPARENT for name, _ in headers):
        return headers
    return (*headers, (TRACEPARENT, trace))
