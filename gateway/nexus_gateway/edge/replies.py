"""What clients get when the gateway answers itself: RFC 9457 problem details, never an address, secret or traceback."""

from __future__ import annotations

import json
from http import HTTPStatus
from math import ceil

from nexus_core.hooks import Reply

TITLES = {
    "BadRequest": (400, "The request is malformed"),
    "RequestTimeout": (504, "The upstream did not answer in time"),
    "HeadTimeout": (408, "The request head took too long"),
    "BodyTimeout": (408, "The request body stopped coming"),
    "MethodRefused": (405, "The method is not supported by the gateway"),
    "BadVersion": (505, "The HTTP version is not supported"),
    "ExpectationFailed": (417, "The expectation cannot be met"),
    "BodyTooLarge": (413, "The request body is larger than the route accepts"),
    "RateLimited": (429, "Too many requests"),
    "HeadTooLarge": (431, "The request line or headers are too large"),
    "RouteNotFound": (404, "No route matches the request"),
    "MisdirectedRequest": (421, "The connection was made to another host of this gateway"),
    "BackendNotFound": (500, "The route's backend does not exist"),
    "NoBackends": (500, "The route has no backend that takes requests"),
    "NoEndpoints": (503, "The upstream has no live endpoint"),
    "CircuitOpen": (503, "The upstream is failing and is not called for a moment"),
    "UpstreamConnectFailure": (502, "The upstream could not be reached"),
    "UpstreamNotVerified": (502, "The upstream did not prove to be the host that was asked for"),
    "UpstreamReset": (502, "The upstream broke the connection"),
    "UpstreamProtocolError": (502, "The upstream's answer is not valid HTTP"),
    "UpstreamOverloaded": (503, "The upstream is serving as many requests as it may"),
    "ResponseTooLarge": (502, "The upstream's answer is larger than the route accepts"),
    "FaultInjected": (503, "The route is configured to fail this request"),
    "PluginUnavailable": (503, "A plugin that this route needs is not running"),
    "Overloaded": (503, "The gateway is serving as many requests as it can"),
    "NotConfigured": (503, "The gateway has no configuration yet"),
    "InternalError": (500, "The gateway failed"),
}
"""reason → status and title. Every reason a client can read."""

_RETRY_AFTER = {"NoEndpoints", "CircuitOpen", "Overloaded", "UpstreamOverloaded", "NotConfigured", "PluginUnavailable"}

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """Return the status line with its CRLF. status: 100..599; one that nobody knows has no phrase."""
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()


def fault(status: int, request_id: str) -> Reply:
    """Return the reply for a fault that a route injects."""
    return _reply("FaultInjected", status, TITLES["FaultInjected"][1], request_id, "")


def problem(reason: str, request_id: str, detail: str = "", *, retry_after_s: float = 0.0) -> Reply:
    """Return the reply for a reason of `TITLES`. detail: one sentence for the client, if there is more to say.

    retry_after_s: when to come again; 0 leaves it to the reason.
    """
    status, title = TITLES[reason]
    return _reply(reason, status, title, request_id, detail, retry_after_s)


def _reply(reason: str, status: int, title: str, request_id: str, detail: str, retry_after_s: float = 0.0) -> Reply:
    body = {"type": "about:blank", "title": title, "status": status, "reason": reason}
    if detail:
        body["detail"] = detail
    if request_id:
        body["request_id"] = request_id
    content = json.dumps(body).encode()
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if reason in _RETRY_AFTER or retry_after_s:
        headers.append(("retry-after", str(max(1, ceil(retry_after_s)))))
    return Reply(status, tuple(headers), content)
