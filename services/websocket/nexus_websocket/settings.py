"""Settings of the WebSocket service, beside the ones every service has. Pure: reads from a mapping that is handed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nexus_sdk import SettingsError

from nexus_websocket import protocol

_SERVICE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?\Z")


@dataclass(frozen=True, slots=True)
class Feed:
    """Events whose type matches go to the channel. type: exact, or a prefix with `*` at its end."""

    type: str
    channel: str

    def wants(self, event_type: str) -> bool:
        return event_type.startswith(self.type[:-1]) if self.type.endswith("*") else event_type == self.type


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """feeds: what the event service is asked for. (NEXUS_WEBSOCKET_EVENTS: `order.placed=orders,invoice.*=billing`)

    events_service: its name; in another namespace `events.platform`. (NEXUS_WEBSOCKET_EVENTS_SERVICE)
    ttl_s: of the subscription there, renewed at a third of it; 30: a replica that was killed is forgotten after that.
    (NEXUS_WEBSOCKET_TTL_SECONDS)
    client_publish: channels clients may publish to; `client-*`: only those named for it, because a client is not
    trusted to speak in another's place. `none`: nowhere. (NEXUS_WEBSOCKET_CLIENT_PUBLISH)
    max_connections: further ones get 503. (NEXUS_WEBSOCKET_MAX_CONNECTIONS) max_message_bytes: of a client's message;
    larger ones close with 1009. (NEXUS_WEBSOCKET_MAX_MESSAGE_BYTES) queue_bytes: waiting for one client; more closes it
    with 4101. (NEXUS_WEBSOCKET_QUEUE_BYTES) max_channels: subscriptions of one client. (NEXUS_WEBSOCKET_MAX_CHANNELS)
    ping_s: between pings; a client that does not answer within half of it is gone. (NEXUS_WEBSOCKET_PING_SECONDS)
    history: messages kept per channel. (NEXUS_WEBSOCKET_HISTORY)
    """

    feeds: tuple[Feed, ...] = ()
    events_service: str = "events"
    ttl_s: float = 30.0
    client_publish: tuple[str, ...] = ("client-*",)
    max_connections: int = 10_000
    max_message_bytes: int = 64 * 1024
    queue_bytes: int = 256 * 1024
    max_channels: int = 100
    ping_s: float = 25.0
    history: int = 100

    def channels_of(self, event_type: str) -> tuple[str, ...]:
        """Return the channels of an event, each once."""
        return tuple(dict.fromkeys(feed.channel for feed in self.feeds if feed.wants(event_type)))


def parse(environ: Mapping[str, str]) -> SocketSettings:
    """Return the settings. Raises SettingsError: which variable, what, how to fix."""
    default = SocketSettings()
    service = environ.get("NEXUS_WEBSOCKET_EVENTS_SERVICE") or default.events_service
    if not _SERVICE.match(service):
        raise _bad("NEXUS_WEBSOCKET_EVENTS_SERVICE", service, "Use a service name such as 'events' or 'events.shop'.")
    publish = environ.get("NEXUS_WEBSOCKET_CLIENT_PUBLISH") or "client-*"
    patterns = () if publish.strip() == "none" else tuple(p.strip() for p in publish.split(",") if p.strip())
    for pattern in patterns:
        if not protocol.is_channel(pattern.removesuffix("*") or "a"):
            raise _bad(
                "NEXUS_WEBSOCKET_CLIENT_PUBLISH", pattern, "Use channel names, prefixes such as 'client-*', or 'none'."
            )
    return SocketSettings(
        feeds=_feeds(environ.get("NEXUS_WEBSOCKET_EVENTS") or ""),
        events_service=service,
        ttl_s=_number(environ, "NEXUS_WEBSOCKET_TTL_SECONDS", default.ttl_s, 1, 86_400),
        client_publish=patterns,
        max_connections=int(_number(environ, "NEXUS_WEBSOCKET_MAX_CONNECTIONS", default.max_connections, 1, 1_000_000)),
        max_message_bytes=int(
            _number(environ, "NEXUS_WEBSOCKET_MAX_MESSAGE_BYTES", default.max_message_bytes, 64, 2**24)
        ),
        queue_bytes=int(_number(environ, "NEXUS_WEBSOCKET_QUEUE_BYTES", default.queue_bytes, 1024, 2**30)),
        max_channels=int(_number(environ, "NEXUS_WEBSOCKET_MAX_CHANNELS", default.max_channels, 1, 100_000)),
        ping_s=_number(environ, "NEXUS_WEBSOCKET_PING_SECONDS", default.ping_s, 0.1, 3600),
        history=int(_number(environ, "NEXUS_WEBSOCKET_HISTORY", default.history, 0, 100_000)),
    )


def _feeds(text: str) -> tuple[Feed, ...]:
    feeds = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        event_type, sign, channel = (p.strip() for p in part.partition("="))
        if not (sign and event_type and "*" not in event_type[:-1] and protocol.is_channel(channel)):
            raise _bad(
                "NEXUS_WEBSOCKET_EVENTS",
                part,
                "Use 'event.type=channel,other.*=channel'; a * may stand at the end of a type.",
            )
        feeds.append(Feed(event_type, channel))
    return tuple(feeds)


def _number(environ: Mapping[str, str], variable: str, default: float, low: float, high: float) -> float:
    text = (environ.get(variable) or "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise _bad(variable, text, f"Use a number from {low:g} to {high:g}.")
    return value


def _bad(variable: str, value: str, fix: str) -> SettingsError:
    return SettingsError(f"Environment variable {variable}: {value[:80]!r} cannot be used. {fix}")
