"""What a line says of a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nexus_sdk.plugin import Done, PluginConfigError, RequestHead

_MAX = 2048
_SECRET = re.compile(r"authorization|cookie|token|secret|passw|api-?key|credential", re.IGNORECASE)


def _time(at_unix_s: float) -> str:
    return datetime.fromtimestamp(at_unix_s, UTC).isoformat(timespec="milliseconds")


FIELDS: Mapping[str, Callable[[RequestHead, Done], Any]] = {
    "at": lambda request, done: _time(done.at_unix_s),
    "client": lambda request, done: request.client_ip,
    "method": lambda request, done: request.method,
    "host": lambda request, done: request.host[:_MAX],
    "path": lambda request, done: request.path[:_MAX],
    "query": lambda request, done: request.query[:_MAX],
    "route": lambda request, done: done.route,
    "upstream": lambda request, done: done.upstream,
    "endpoint": lambda request, done: done.endpoint,
    "attempts": lambda request, done: done.attempts,
    "status": lambda request, done: done.status,
    "reason": lambda request, done: done.reason,
    "outcome": lambda request, done: _outcome(done.status),
    "seconds": lambda request, done: round(done.seconds, 6),
    "bytes_in": lambda request, done: done.bytes_in,
    "bytes_out": lambda request, done: done.bytes_out,
    "request_id": lambda request, done: done.request_id,
    "trace_id": lambda request, done: done.trace_id,
}
DEFAULT = tuple(name for name in FIELDS if name != "query")


class Form:
    """Which fields a line has, in which order."""

    def __init__(self, fields: Sequence[str], subject: Sequence[str], headers: Sequence[str]) -> None:
        """subject: headers of which the first that is there says who it was. headers: that are written. Raises PluginConfigError."""
        for name in headers:
            if _SECRET.search(name):
                raise PluginConfigError(
                    f"config.headers: {name} carries secrets, which do not belong into a log; remove it."
                )
        self._fields = [(name, FIELDS[name]) for name in fields]
        self._subject = [name.lower() for name in subject]
        self._headers = frozenset(name.lower() for name in headers)

    def of(self, request: RequestHead, done: Done, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return the line's fields. digests: of the bodies that were seen."""
        made = {name: read(request, done) for name, read in self._fields}
        if self._subject:
            found = (request.header(name) for name in self._subject)
            made["subject"] = next((value[:_MAX] for value in found if value), "")
        if self._headers:
            headers: dict[str, list[str]] = {}
            for name, value in request.headers:
                if name in self._headers:
                    headers.setdefault(name, []).append(value[:_MAX])
            made["headers"] = headers
        made.update(digests)
        return made


def _outcome(status: int) -> str:
    if status == 499:
        return "left"
    if status in (401, 403):
        return "denied"
    return "success" if status < 400 else "failure" if status >= 500 else "refused"
