"""The plugin: writes a line when a request is over, and hands it to the sinks."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import BodyStream, Done, Plugin, PluginConfigError, Reply, RequestHead, ResponseHead

from .chains import Chain
from .lines import DEFAULT, Form
from .sinks import Buffer, HttpSink, RedisSink

_CLOSE_S = 3.0


class Digest:
    """Passes a body on, and takes its SHA-256 into the notes when it is over."""

    def __init__(self, notes: dict[str, str], name: str) -> None:
        self._notes = notes
        self._name = name
        self._sha256 = hashlib.sha256()

    def feed(self, data: bytes) -> bytes:
        """Return the piece."""
        self._sha256.update(data)
        return data

    def finish(self) -> bytes:
        """Return nothing more."""
        self._notes[self._name] = self._sha256.hexdigest()
        return b""


class AuditLog(Plugin):
    """Writes a line for each request."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._form = Form(
            config.get("fields", DEFAULT), config.get("subject", ("x-consumer-name",)), config.get("headers", ())
        )
        self._methods = frozenset(config.get("methods", ()))
        self._requests = bool(config.get("requestDigest", False))
        self._responses = bool(config.get("responseDigest", False))
        self._refuse = config.get("whenFull", "log") == "refuse"
        self._log = bool(config.get("log", True))
        self._chain = Chain(secrets.token_hex(8), self.context.secrets.get("chain-key", "").encode())
        size, batch = int(config.get("bufferLines", 10_000)), int(config.get("batchLines", 200))
        self._buffers: list[Buffer] = []
        if "http" in config:
            token = self.context.secrets.get("http-token", "")
            self._buffers.append(
                Buffer("http", HttpSink(self.context, config["http"], token), self.context, size, batch)
            )
        if "redis" in config:
            self._buffers.append(Buffer("redis", RedisSink(self.context, config["redis"]), self.context, size, batch))
        if not self._log and not self._buffers:
            raise PluginConfigError(
                "config.log: it is false and there is neither http nor redis; lines would go nowhere."
            )

    async def stop(self) -> None:
        """Send what still waits."""
        for buffer in self._buffers:
            await buffer.close(_CLOSE_S / len(self._buffers))

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request; 503 when nothing may happen unlogged and there is no room."""
        if not self._is_wanted(request):
            return request
        if self._refuse and any(buffer.is_full for buffer in self._buffers):
            return _full(request)
        if not (self._requests or self._responses):
            return request
        request.notes[self.context.plugin] = {}  # digests by name
        return request

    def on_request_stream(self, request: RequestHead) -> BodyStream | None:
        """Return what digests the request's body."""
        return self._stream(request, "request_sha256") if self._requests else None

    def on_response_stream(self, request: RequestHead, response: ResponseHead) -> BodyStream | None:
        """Return what digests the response's body."""
        return self._stream(request, "response_sha256") if self._responses else None

    def on_done(self, request: RequestHead, done: Done) -> None:
        """Write the line."""
        if not self._is_wanted(request):
            return
        digests = request.notes.get(self.context.plugin, {})
        line = self._chain.line(self._form.of(request, done, digests))
        if self._log:
            self.context.log.info("%s", line)
        for buffer in self._buffers:
            buffer.put(line)

    def _is_wanted(self, request: RequestHead) -> bool:
        return not self._methods or request.method in self._methods

    def _stream(self, request: RequestHead, name: str) -> Digest | None:
        notes = request.notes.get(self.context.plugin)
        return Digest(notes, name) if notes is not None else None


def _full(request: RequestHead) -> Reply:
    body: dict[str, Any] = {
        "type": "about:blank", "title": "Requests cannot be logged now", "status": 503, "reason": "AuditLogFull",
        "detail": "Nothing is served that cannot be logged. Try again later.",
    }  # fmt: skip
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    return Reply(503, (("content-type", "application/problem+json"), ("retry-after", "5")), json.dumps(body).encode())
