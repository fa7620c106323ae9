"""What hooks on the messages of a WebSocket see."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_core.hooks.http import RequestHead


@dataclass(frozen=True, slots=True)
class Socket:
    """One WebSocket. id: unique in its gateway process. request: the handshake as this plugin's `on_request` returned it."""

    id: str
    request: RequestHead


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message: text for a str, binary for bytes."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the WebSocket on both sides. code: 1000, 1001, 1003, 1007 to 1013, or 3000 to 4999. reason: at most 123 bytes of UTF-8."""

    code: int = 1008
    reason: str = ""
