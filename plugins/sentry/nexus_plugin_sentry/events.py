"""From a request that is over to a Sentry event, without what is nobody's business."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from nexus_sdk.plugin import Done, Headers, RequestHead

if TYPE_CHECKING:
    from sentry_sdk.types import Event

FILTERED = "[Filtered]"
_SECRET = re.compile(
    r"auth|cookie|token|secret|passw|pwd|session|api-?_?key|credential|signature|csrf|xsrf|jwt", re.IGNORECASE
)
_MAX = 1024


def is_secret(name: str) -> bool:
    """Return whether a header or parameter of this name is kept back whatever is configured."""
    return _SECRET.search(name) is not None


def scrubbed_headers(headers: Headers, allowed: frozenset[str]) -> dict[str, str]:
    """Return those headers that may be sent, bounded."""
    return {name: value[:_MAX] for name, value in headers if name in allowed and not is_secret(name)}


def scrubbed_query(query: str) -> str:
    """Return a query without values of secret names, bounded."""
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=None)
    return urlencode([(name, FILTERED if is_secret(name) else value) for name, value in pairs])[:_MAX]


def event_of(
    request: RequestHead,
    done: Done,
    allowed: frozenset[str],
    *,
    query: bool,
    client_ip: bool,
    tags: Iterable[tuple[str, str]],
) -> Event:
    """Return the event of a request that failed. It groups by method, route, status and reason, not by address."""
    what = done.reason or f"status {done.status}"
    place = f"{request.method} {done.route or request.route or request.path[:_MAX]}"
    event: dict[str, Any] = {
        "level": "error" if done.status >= 500 else "warning",
        "logger": "nexus.gateway",
        "message": {"formatted": f"{place}: {what}"},
        "transaction": place,
        "fingerprint": [request.method, done.route, str(done.status), done.reason],
        "timestamp": done.at_unix_s + done.seconds,
        "tags": {
            "status": str(done.status), "reason": done.reason or "none", "route": done.route or "none", "upstream": done.upstream or "none",
            **dict(tags),
        },
        "request": {
            "method": request.method,
            "url": f"//{request.host}{request.path[:_MAX]}",
            "headers": scrubbed_headers(request.headers, allowed),
        },
        "contexts": {
            "exchange": {
                "type": "exchange", "endpoint": done.endpoint, "attempts": done.attempts, "seconds": round(done.seconds, 6),
                "bytes_in": done.bytes_in, "bytes_out": done.bytes_out, "request_id": done.request_id,
            },
        },
    }  # fmt: skip
    if query and request.query:
        event["request"]["query_string"] = scrubbed_query(request.query)
    if client_ip and request.client_ip:
        event["user"] = {"ip_address": request.client_ip}
    if re.fullmatch(r"[0-9a-f]{32}", done.trace_id):
        # Sentry wants a span; ours is not known here, so it is one that is always the same for a request.
        span = hashlib.sha256(f"{done.trace_id}{done.request_id}".encode()).hexdigest()[:16]
        event["contexts"]["trace"] = {"trace_id": done.trace_id, "span_id": span}
    return event  # type: ignore[return-value]  # a TypedDict of many optional keys
