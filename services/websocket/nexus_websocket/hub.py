"""The clients of this process and their channels: one encoding and one append per client for each message."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiohttp import WSMsgType, web
from nexus_sdk import HttpProblem
from nexus_sdk.logs import Log
from nexus_sdk.tracing import W3C
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from nexus_websocket import protocol
from nexus_websocket.channels import Channels
from nexus_websocket.connections import CLOSE_S, Connection
from nexus_websocket.metrics import SocketMetrics
from nexus_websocket.settings import SocketSettings

SEEN = 10_000
"""Events remembered by (source, id): the event service delivers at least once, clients get each once from a replica."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one message. receivers: clients it was queued for."""

    id: str
    receivers: int


class Hub:
    """Owned by the app. epoch: of the message ids, new at every start."""

    def __init__(
        self, settings: SocketSettings, epoch: str, tracer: trace.Tracer, metrics: SocketMetrics, log: Log
    ) -> None:
        self._settings, self._tracer, self._metrics, self._log = settings, tracer, metrics, log
        self._channels: Channels[Connection] = Channels(epoch, history=settings.history)
        self._connections: set[Connection] = set()
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._draining = False
        metrics.watch(lambda: len(self._connections), lambda: len(self._channels))

    def is_new(self, source: str, event_id: str) -> bool:
        """Whether the event has not been seen here; remembers it."""
        key = (source, event_id)
        if key in self._seen:
            self._seen.move_to_end(key)
            return False
        self._seen[key] = None
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        return True

    def deliver(
        self,
        channel: str,
        data: msgspec.Raw,
        *,
        origin: str,
        parent: Context | None = None,
        links: tuple[Link, ...] = (),
    ) -> Sent:
        """Queue the message for every subscriber; never waits. parent: None: the current span. origin: event, post or client."""
        attributes = {
            "messaging.system": "nexus",
            "messaging.operation.type": "process",
            "nexus.channel": channel,
            "nexus.origin": origin,
        }
        with self._tracer.start_as_current_span(
            f"websocket deliver {channel}", context=parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links
        ) as span:
            carrier: dict[str, str] = {}
            W3C.inject(carrier)
            message_id = self._channels.next_id()
            payload = protocol.delivery(channel, data, message_id, carrier.get("traceparent", ""))
            receivers = sum(connection.send(payload) for connection in self._channels.publish(channel, payload))
            span.set_attribute("nexus.receivers", receivers)
            span.set_attribute("messaging.message.id", message_id)
        self._metrics.delivered(origin, receivers)
        return Sent(message_id, receivers)

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one client until it leaves or is closed."""
        settings = self._settings
        if self._draining or len(self._connections) >= settings.max_connections:
            self._metrics.refused()
            why = (
                "is stopping"
                if self._draining
                else f"has {settings.max_connections} clients, its limit (NEXUS_WEBSOCKET_MAX_CONNECTIONS)"
            )
            raise HttpProblem(
                503,
                "TooManyConnections",
                f"This instance {why}. Connect again: another may have room.",
                headers={"retry-after": "5"},
            )
        socket = web.WebSocketResponse(
            timeout=CLOSE_S, heartbeat=settings.ping_s, max_msg_size=settings.max_message_bytes, compress=False,
            protocols=(protocol.SUBPROTOCOL,),
        )  # fmt: skip
        if not socket.can_prepare(request).ok:
            detail = "This is a WebSocket. Send `connection: Upgrade`, `upgrade: websocket`, or use a WebSocket client."
            raise HttpProblem(426, "UpgradeRequired", detail, headers={"upgrade": "websocket", "connection": "upgrade"})
        await socket.prepare(request)
        connection = Connection(socket, settings.queue_bytes, _cutter(request))
        self._connections.add(connection)
        self._metrics.opened()
        connection.send(protocol.hello(connection.id, settings.ping_s, settings.max_message_bytes))
        writer = asyncio.create_task(connection.write(), name=f"nexus-websocket-{connection.id}")
        if self._draining:  # it began while the handshake was under way
            self._restart(connection)
        try:
            await self._listen(connection, socket)
        finally:
            self._connections.discard(connection)
            for channel in connection.channels:
                self._channels.unsubscribe(channel, connection)
            if connection.closing_code is not None:
                await asyncio.wait([writer], timeout=CLOSE_S + 1)
            writer.cancel()
            self._metrics.closed(connection.closing_code or socket.close_code or 1006)
        return socket

    async def drain(self) -> None:
        """Close every client with 1012; they reconnect elsewhere."""
        self._draining = True
        for connection in list(self._connections):
            self._restart(connection)

    @staticmethod
    def _restart(connection: Connection) -> None:
        connection.close(protocol.CLOSE_RESTART, b"service restart: reconnect")

    async def _listen(self, connection: Connection, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if connection.closing_code is not None:
                continue  # read on for the close handshake; what is sent meanwhile has no effect
            if message.type is WSMsgType.TEXT:
                self._handle(connection, message.data)
            elif message.type is WSMsgType.BINARY:
                connection.close(protocol.CLOSE_BINARY, b"binary message: send JSON as text")
            # ERROR: aiohttp has closed with the right code (1009, 1007, 1002) and the iteration ends

    def _handle(self, connection: Connection, text: str) -> None:
        try:
            answer = self._answer(connection, protocol.parse(text))
        except protocol.Refused as refused:
            connection.errors += 1
            answer = protocol.error(refused)
            self._metrics.invalid(refused.code)
            if connection.errors >= protocol.MAX_ERRORS:
                connection.send(answer)
                connection.close(protocol.CLOSE_PROTOCOL, b"too many invalid messages")
                return
        else:
            connection.errors = 0
        if answer:
            connection.send(answer)

    def _answer(self, connection: Connection, message: protocol.Message) -> bytes:
        """Return the answer, or nothing when it is queued already. Raises protocol.Refused."""
        match message:
            case protocol.Subscribe(channel, after, ref):
                if channel not in connection.channels and len(connection.channels) >= self._settings.max_channels:
                    fix = "Unsubscribe from one, or use another connection."
                    raise protocol.Refused(
                        "too-many-channels", f"{self._settings.max_channels} channels are the limit. {fix}", ref
                    )
                connection.channels.add(channel)
                last = self._channels.subscribe(channel, connection)
                missed, recovered = self._channels.since(channel, after) if after is not None else ((), None)
                if not connection.has_room(missed):
                    # Closing it as too slow would have it come back with the same id, and be closed again, for ever.
                    missed, recovered = (), False
                # One step of the event loop: nothing can be published between the history and the live messages.
                connection.send(protocol.subscribed(channel, last, recovered, ref))
                for payload in missed:
                    connection.send(payload)
                return b""
            case protocol.Unsubscribe(channel, ref):
                connection.channels.discard(channel)
                self._channels.unsubscribe(channel, connection)
                return protocol.unsubscribed(channel, ref)
            case protocol.Publish(channel, data, ref):
                if not protocol.may_publish(channel, self._settings.client_publish):
                    allowed = ", ".join(self._settings.client_publish) or "none"
                    text = f"Clients may not publish to {channel!r}; allowed: {allowed}. Use POST /publish behind the gateway, or an event."
                    raise protocol.Refused("not-allowed", text, ref)
                if channel not in connection.channels:
                    raise protocol.Refused("not-subscribed", f"Subscribe to {channel!r} before you publish to it.", ref)
                link = trace.get_current_span().get_span_context()
                # A trace of its own: the connection's span may be open for days.
                sent = self.deliver(
                    channel, data, origin="client", parent=Context(), links=(Link(link),) if link.is_valid else ()
                )
                return protocol.published(channel, sent.id, ref)
            case protocol.Ping(ref):
                return protocol.pong(ref)


def _cutter(request: web.Request) -> Callable[[], None]:
    transport = request.transport

    def cut() -> None:
        if transport is not None:
            transport.abort()

    return cut
