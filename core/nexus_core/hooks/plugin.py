"""The base class of plugins."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from nexus_core.hooks.context import Context
from nexus_core.hooks.events import Delivery, Event
from nexus_core.hooks.http import (
    BodyStream,
    Done,
    Endpoint,
    Headers,
    Reply,
    RequestHead,
    ResponseHead,
    RouteChoice,
)
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.operations import Operation, Resolved
from nexus_core.hooks.refusals import Refusal
from nexus_core.hooks.sockets import Close, Message, Socket


class PluginConfigError(ValueError):
    """The configuration cannot be used. Raise it in `__init__` or `on_config`: which key, what, how to fix."""


class Plugin:
    """Override the hooks you need, and list them in `plugin.yaml`. What is not overridden is not called and costs nothing.

    config: `NexusPlugin.spec.config` with the schema's defaults and the values of `configFrom`, already checked against the plugin's
    JSON Schema. context: what the plugin may use; there before `__init__`. One instance serves many requests at once, on one event loop.
    Which hooks may be coroutines, their budgets and what happens when they fail: `nexus_core.hooks.specs`, docs/reference/hooks.md.
    """

    context: Context

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    # ---- its life

    async def start(self) -> None:
        """Open what the plugin needs. Raising keeps the plugin from being used."""

    async def stop(self) -> None:
        """Release what `start` opened. Called once, also after a failed start."""

    def on_config(self, config: Mapping[str, Any]) -> Awaitable[None] | None:
        """Take a new configuration without a new instance. Without this hook a new instance replaces the old one, and it is not called."""
        return None

    # ---- requests

    def on_request(self, request: RequestHead) -> RequestHead | Reply | Awaitable[RequestHead | Reply]:
        """Return the head that goes on, or a `Reply` that ends the request."""
        return request

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether `on_request_body` wants this request's body; it is buffered only then."""
        return True

    def on_request_body(
        self, request: RequestHead, body: bytes
    ) -> bytes | tuple[RequestHead, bytes] | Reply | Awaitable[bytes | tuple[RequestHead, bytes] | Reply]:
        """Return the body that goes on, with a changed head if need be, or a `Reply` that ends the request."""
        return body

    def on_request_stream(self, request: RequestHead) -> BodyStream | None:
        """Return what changes this request's body while it passes, None for nothing."""
        return None

    def on_route(
        self, request: RequestHead, choice: RouteChoice
    ) -> RouteChoice | Reply | Awaitable[RouteChoice | Reply]:
        """Return the choice, perhaps of another of its upstreams, or a `Reply` that ends the request."""
        return choice

    def on_endpoint(self, request: RequestHead, endpoint: Endpoint) -> Headers:
        """Return headers to add for this attempt."""
        return ()

    def on_response(
        self, request: RequestHead, response: ResponseHead
    ) -> ResponseHead | Reply | Awaitable[ResponseHead | Reply]:
        """Return the head the client gets, or a `Reply` in place of the whole response."""
        return response

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether `on_response_body` wants this response's body; it is buffered only then."""
        return True

    def on_response_body(
        self, request: RequestHead, response: ResponseHead, body: bytes
    ) -> bytes | Reply | Awaitable[bytes | Reply]:
        """Return the body the client gets, or a `Reply` in place of the whole response."""
        return body

    def on_response_stream(self, request: RequestHead, response: ResponseHead) -> BodyStream | None:
        """Return what changes this response's body while it passes, None for nothing."""
        return None

    def on_done(self, request: RequestHead, done: Done) -> Awaitable[None] | None:
        """Take note of a request that is over."""
        return None

    # ---- WebSockets

    def on_client_message(
        self, socket: Socket, message: Message
    ) -> Message | Close | Awaitable[Message | Close | None] | None:
        """Return the client's message as it goes on, None to drop it, or `Close`."""
        return message

    def on_server_message(
        self, socket: Socket, message: Message
    ) -> Message | Close | Awaitable[Message | Close | None] | None:
        """Return the service's message as it goes on, None to drop it, or `Close`."""
        return message

    # ---- events

    def on_event_accepted(self, event: Event) -> Event | Refusal | Awaitable[Event | Refusal]:
        """Return the event that is stored, or a `Refusal`."""
        return event

    def on_event_delivered(self, event: Event, delivery: Delivery) -> Awaitable[None] | None:
        """Take note of an event that a subscriber took."""
        return None

    def on_event_dead_lettered(self, event: Event, delivery: Delivery) -> Awaitable[None] | None:
        """Take note of an event that a subscriber did not take in all its attempts."""
        return None

    # ---- GraphQL

    def on_operation_parsed(self, operation: Operation) -> Operation | Refusal | Awaitable[Operation | Refusal]:
        """Return the operation that is executed, its variables perhaps changed, or a `Refusal`."""
        return operation

    def on_operation_resolved(self, operation: Operation, result: Resolved) -> Resolved | Awaitable[Resolved]:
        """Return the result that the client gets."""
        return result

    # ---- manifests

    def on_manifest(self, manifest: Manifest) -> Manifest | Refusal:
        """Return the manifest that is translated, or a `Refusal` that becomes its condition. Pure: equal manifests, equal results."""
        return manifest
