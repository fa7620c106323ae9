"""Sets one response header: what Envoy's `header_mutation` does in the same run."""

from __future__ import annotations

from nexus_sdk.plugin import Plugin, RequestHead, ResponseHead


class Stamp(Plugin):
    """Sets `x-bench-proxy`."""

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the response with the header."""
        return response.with_header("x-bench-proxy", "done")
