"""The same header from a plugin that may see no header and write just this one, as plugins from a marketplace are."""

from __future__ import annotations

from nexus_sdk.plugin import Plugin, RequestHead


class Granted(Plugin):
    """Adds `x-bench` to the request."""

    def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with the header."""
        return request.with_header("x-bench", "done")
