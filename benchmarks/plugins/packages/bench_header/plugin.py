"""Adds one request header: the smallest thing that a plugin does."""

from __future__ import annotations

from nexus_sdk.plugin import Plugin, RequestHead


class Header(Plugin):
    """Adds `x-bench` to the request."""

    def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with the header."""
        return request.with_header("x-bench", "done")
