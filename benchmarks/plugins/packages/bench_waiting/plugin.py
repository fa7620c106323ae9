"""The same header from a coroutine that does not wait for anything: what awaiting itself costs."""

from __future__ import annotations

from nexus_sdk.plugin import Plugin, RequestHead


class Waiting(Plugin):
    """Adds `x-bench` to the request."""

    async def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with the header."""
        return request.with_header("x-bench", "done")
