"""The base class of gateway plugins. It imports no web server: a plugin needs only the hooks' contract."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from nexus_core.hooks.http import API_VERSION, Headers, Reply, RequestHead, ResponseHead

__all__ = ["API_VERSION", "Headers", "Plugin", "PluginConfigError", "Reply", "RequestHead", "ResponseHead"]


class PluginConfigError(ValueError):
    """The configuration cannot be used. Raise it in `__init__`: which key, what, how to fix."""


class Plugin:
    """Override the hooks you need; each may be a plain function or a coroutine. The hooks here change nothing.

    config: `NexusPlugin.spec.config`, already checked against the plugin's JSON Schema. One instance serves many
    requests at once, on one event loop.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def on_request(self, request: RequestHead) -> RequestHead | Reply | Awaitable[RequestHead | Reply]:
        """Return the head that goes on, or a `Reply` that ends the request."""
        return request

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead | Awaitable[ResponseHead]:
        """Return the head the client gets. request: as this plugin's `on_request` returned it."""
        del request
        return response

    async def start(self) -> None:
        """Open what the plugin needs. Raising keeps the plugin from being used."""

    async def stop(self) -> None:
        """Release what `start` opened. Called once, also after a failed start."""
