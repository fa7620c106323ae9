"""Copies one request header to another: what Envoy's first `header_mutation` does in the same run."""

from __future__ import annotations

from nexus_sdk.plugin import Plugin, RequestHead


class Tenant(Plugin):
    """Sets `x-bench-tenant` to the value of `x-tenant`."""

    def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with the header."""
        return request.with_header("x-bench-tenant", request.header("x-tenant") or "none")
