"""The messages between client and server, version 1: JSON texts. Pure. Described in docs/reference/websocket-protocol.md.

What a client sends is judged here; what is refused gets an error message that says what and how to fix, and only a broken
protocol costs the connection. Close codes follow Pusher's ranges: 4000-4099 do not reconnect, 4100-4199 reconnect
after a wait, 4200-4299 reconnect at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

VERSION = 1
SUBPROTOCOL = "nexus.v1"

CLOSE_RESTART = 1012
"""RFC 6455 registry, "Service Restart": reconnect (after a short random wait), another instance answers."""
CLOSE_BINARY = 1003
"""A binary message: this protocol is text. Do not reconnect before the client is corrected."""
CLOSE_PROTOCOL = 4001
"""Too many messages that are none of this protocol. Do not reconnect before the client is corrected."""
CLOSE_SLOW = 4101
"""The client did not read fast enough. Reconnect after a wait, and resume with `after`."""

MAX_ERRORS = 10
"""Refused messages in a row until CLOSE_PROTOCOL."""

_CHANNEL = re.compile(r"[A-Za-z0-9_\-=@,.;]{1,164}\Z")  # Pusher's alphabet and length
_FIELDS = ("subscribe", "unsubscribe", "publish", "ping")


@dataclass(frozen=True, slots=True)
class Subscribe:
    """after: id of the last message the client has; None: only what comes from now on. ref: echoed in the answer."""

    channel: str
    after: str | None = None
    ref: Any = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    channel: str
    ref: Any = None


@dataclass(frozen=True, slots=True)
class Publish:
    channel: str
    data: msgspec.Raw
    ref: Any = None


@dataclass(frozen=True, slots=True)
class Ping:
    ref: Any = None


Message = Subscribe | Unsubscribe | Publish | Ping


class Refused(Exception):
    """The message cannot be used. code: stable, kebab-case, what clients switch on. text: what and how to fix."""

    def __init__(self, code: str, text: str, ref: Any = None) -> None:
        super().__init__(text)
        self.code, self.text, self.ref = code, text, ref


class _Publish(msgspec.Struct, forbid_unknown_fields=True):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Incoming(msgspec.Struct, forbid_unknown_fields=True):
    subscribe: str | msgspec.UnsetType = msgspec.UNSET
    unsubscribe: str | msgspec.UnsetType = msgspec.UNSET
    publish: _Publish | msgspec.UnsetType = msgspec.UNSET
    ping: bool | int | str | msgspec.UnsetType | None = msgspec.UNSET
    after: str | None = None
    ref: str | int | None = None


_decoder = msgspec.json.Decoder(_Incoming)


def parse(text: str) -> Message:
    """Return what the client wants. Raises Refused."""
    try:
        incoming = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as err:
        fix = 'Send one JSON object such as {"subscribe": "orders"}.'
        raise Refused("invalid-message", f"Not a message of protocol {VERSION}: {err}. {fix}") from err
    ref = incoming.ref
    if isinstance(incoming.ref, str) and len(incoming.ref) > 64:
        raise Refused("invalid-message", "ref is longer than 64 characters. Use a short one.")
    named = [name for name in _FIELDS if getattr(incoming, name) is not msgspec.UNSET]
    if len(named) != 1:
        raise Refused(
            "invalid-message", f"A message holds exactly one of: {', '.join(_FIELDS)}; this one {len(named)}.", ref
        )
    if incoming.subscribe is not msgspec.UNSET:
        if incoming.after is not None and len(incoming.after) > 64:
            raise Refused(
                "invalid-message", "after is no id of this service. Send the id of the last message you have.", ref
            )
        return Subscribe(check_channel(incoming.subscribe, ref), incoming.after, ref)
    if incoming.unsubscribe is not msgspec.UNSET:
        return Unsubscribe(check_channel(incoming.unsubscribe, ref), ref)
    if incoming.publish is not msgspec.UNSET:
        return Publish(check_channel(incoming.publish.channel, ref), check_data(incoming.publish.data, ref), ref)
    return Ping(ref)


def is_channel(name: str) -> bool:
    return _CHANNEL.match(name) is not None


def check_channel(name: str, ref: Any = None) -> str:
    """Return the name. Raises Refused."""
    if not is_channel(name):
        fix = "Use 1 to 164 of A-Z a-z 0-9 _ - = @ , . ;"
        raise Refused("invalid-channel", f"{name[:40]!r} is no channel name. {fix}", ref)
    return name


def check_data(data: msgspec.Raw, ref: Any = None) -> msgspec.Raw:
    """Return the data, which goes out as it came in, so it must be whole JSON. Raises Refused."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as err:
        raise Refused("invalid-message", f"data is not JSON ({err}). Send any JSON value in UTF-8.", ref) from err
    return data


def may_publish(channel: str, patterns: Sequence[str]) -> bool:
    """Whether clients may publish there. patterns: exact names, or prefixes with `*` at the end."""
    return any(channel.startswith(p[:-1]) if p.endswith("*") else channel == p for p in patterns)


# --- out --------------------------------------------------------------------------------------------------------------


class _Delivery(msgspec.Struct, omit_defaults=True):
    channel: str
    data: msgspec.Raw
    id: str
    traceparent: str = ""


def delivery(channel: str, data: msgspec.Raw, message_id: str, traceparent: str = "") -> bytes:
    """Return `{"channel", "data", "id", "traceparent"?}`: encoded once, sent to everybody."""
    return msgspec.json.encode(_Delivery(channel, data, message_id, traceparent))


def hello(connection: str, ping_s: float, max_message_bytes: int) -> bytes:
    """Return the first message of every connection."""
    return msgspec.json.encode({
        "hello": {"protocol": VERSION, "connection": connection, "pingSeconds": ping_s, "maxMessageBytes": max_message_bytes}
    })  # fmt: skip


def subscribed(channel: str, last_id: str, recovered: bool | None, ref: Any) -> bytes:
    """recovered: whether everything after the asked id follows; None when nothing was asked."""
    answer: dict[str, Any] = {"subscribed": channel, "id": last_id}
    if recovered is not None:
        answer["recovered"] = recovered
    return _with_ref(answer, ref)


def unsubscribed(channel: str, ref: Any) -> bytes:
    return _with_ref({"unsubscribed": channel}, ref)


def published(channel: str, message_id: str, ref: Any) -> bytes:
    return _with_ref({"published": channel, "id": message_id}, ref)


def pong(ref: Any) -> bytes:
    return _with_ref({"pong": True}, ref)


def error(refused: Refused) -> bytes:
    return _with_ref({"error": {"code": refused.code, "message": refused.text}}, refused.ref)


def _with_ref(answer: dict[str, Any], ref: Any) -> bytes:
    return msgspec.json.encode(answer if ref is None else {**answer, "ref": ref})
