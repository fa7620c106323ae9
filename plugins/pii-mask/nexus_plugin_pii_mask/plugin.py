"""The plugin: masks what passes, where it is told to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import (
    Done,
    Event,
    Headers,
    Message,
    Plugin,
    PluginConfigError,
    RequestHead,
    ResponseHead,
    Socket,
    pattern_fault,
)

from .masking import Change, Masker, hashed, label, partial

_KEY = "hash-key"
_MIN_KEY = 16
_KEPT = frozenset({"time", "datacontenttype", "dataschema", "specversion"})
"""Attributes of events that are no place for personal data and have forms of their own."""
_UNREADABLE = frozenset({"accept-encoding", "range", "if-range"})
"""What a request asks for that would keep a response from being read: half a card number is none, and the next request has the rest."""
_DIGESTS = frozenset({"content-digest", "content-md5", "digest", "repr-digest"})
"""Digests of bodies as services sent them."""


class PiiMask(Plugin):
    """Masks personal data."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        patterns = []
        for index, each in enumerate(config.get("patterns", ())):
            fault = pattern_fault(each["pattern"])
            if fault:
                raise PluginConfigError(
                    f"config.patterns[{index}].pattern: The expression {each['pattern'][:100]!r} {fault}."
                )
            patterns.append((str(each["name"]), re.compile(each["pattern"])))
        kinds = config.get("kinds", ("email", "card", "iban", "phone"))
        self._masker = Masker(
            kinds, patterns, config.get("fields", ()), self._change(str(config.get("mode", "partial")))
        )
        where: Mapping[str, Any] = config.get("where", {})
        self._events = bool(where.get("events", True))
        self._client = bool(where.get("clientMessages", False))
        self._server = bool(where.get("serverMessages", False))
        self._requests = bool(where.get("requests", False))
        self._responses = bool(where.get("responses", False))
        self._log = bool(where.get("accessLog", False))

    def _change(self, mode: str) -> Change:
        if mode != "hash":
            return label if mode == "label" else partial
        key = self.context.secrets.get(_KEY, "")
        if len(key) < _MIN_KEY:
            raise PluginConfigError(
                f"config.mode: hash needs the secret {_KEY!r} with at least {_MIN_KEY} characters; "
                "grant it in spec.grants.secrets, and make it with `openssl rand -hex 32`."
            )
        return hashed(key.encode())

    # ---- events

    def on_event_accepted(self, event: Event) -> Event:
        """Return the event with data and attributes masked. Its id, source and type stay: they say where it goes."""
        if not self._events:
            return event
        for name, value in event.attributes.items():
            if isinstance(value, str) and name not in _KEPT:
                masked = self._masker.text(value)
                if masked is not value:
                    event = event.with_attribute(name, masked)
        if event.data:
            kind = _media_type(str(event.attributes.get("datacontenttype", "application/json")))
            data = self._masker.body(event.data, kind)
            if data is not event.data:
                event = event.with_data(data)
        return event

    # ---- WebSockets

    def on_client_message(self, socket: Socket, message: Message) -> Message:
        """Return the message masked."""
        return self._message(message) if self._client else message

    def on_server_message(self, socket: Socket, message: Message) -> Message:
        """Return the message masked."""
        return self._message(message) if self._server else message

    def _message(self, message: Message) -> Message:
        if not isinstance(message.data, str):
            return message
        data = message.data.encode("utf-8", "surrogatepass")
        as_json = message.data.lstrip()[:1] in ("{", "[", '"')
        masked = self._masker.body(data, "application/json" if as_json else "text/plain")
        return message if masked is data else Message(masked.decode("utf-8", "surrogatepass"))

    # ---- bodies

    def on_request(self, request: RequestHead) -> RequestHead:
        """Ask for a whole response without compression when that is to be read."""
        if not self._responses or not any(name in _UNREADABLE for name, _ in request.headers):
            return request
        return request.with_headers(tuple([pair for pair in request.headers if pair[0] not in _UNREADABLE]))

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether request bodies are masked, and this one can be read."""
        return self._requests and _is_plain(request.headers)

    def on_request_body(self, request: RequestHead, body: bytes) -> bytes:
        """Return the body masked."""
        return self._masker.body(body, _media_type(request.header("content-type"))) if body else body

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Take out what says how the body was before it is masked."""
        if not self.wants_response_body(request, response) or not any(name in _DIGESTS for name, _ in response.headers):
            return response
        return response.with_headers(tuple([pair for pair in response.headers if pair[0] not in _DIGESTS]))

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether response bodies are masked, and this one can be read."""
        return self._responses and _is_plain(response.headers)

    def on_response_body(self, request: RequestHead, response: ResponseHead, body: bytes) -> bytes:
        """Return the body masked."""
        return self._masker.body(body, _media_type(response.header("content-type"))) if body else body

    # ---- logs

    def on_done(self, request: RequestHead, done: Done) -> None:
        """Write a line about the request in which address and client are masked."""
        if not self._log:
            return
        line = {
            "method": request.method,
            "host": request.host,
            "path": self._masker.path(request.path),
            "query": self._masker.query(request.query),
            "client": self._masker.text(request.client_ip),
            "status": done.status,
            "reason": done.reason,
            "seconds": round(done.seconds, 6),
            "bytes_in": done.bytes_in,
            "bytes_out": done.bytes_out,
            "request_id": done.request_id,
            "trace_id": done.trace_id,
        }
        self.context.log.info("%s", json.dumps(line))


def _media_type(value: str | None) -> str:
    return (value or "").partition(";")[0].strip().lower()


def _is_plain(headers: Headers) -> bool:
    """Return whether a body with these headers is not compressed; a compressed one cannot be looked into, and passes."""
    return all(value.strip().lower() == "identity" for name, value in headers if name == "content-encoding")
