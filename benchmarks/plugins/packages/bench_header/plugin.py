"""Adds one request header: the smallest thing that a plugin does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, RequestHead


class Header(Plugin):
    """Adds a header to the request. config.name: its name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._name = config["name"]

    def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with the header."""
        return request.with_header(self._name, "done")
