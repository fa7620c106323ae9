"""What clients get when the gateway answers itself: RFC 9457 problem details, never an address, secret or traceback."""

from __future__ import annotations

import json

from nexus_core.hooks import Reply

TITLES = {
    "BadRequest": (400, "The request is malformed"),
    "RequestTimeout": (504, "The upstream did not answer in time"),
    "HeadTimeout": (408, "The request head took too long"),
    "BodyTimeout": (408, "The request body stopped coming"),
    "MethodRefused": (405, "The method is not supported by the gateway"),
    "HeadTooLarge": (431, "The request line or headers are too large"),
    "RouteNotFound": (404, "No route matches the request"),
    "BackendNotFound": (500, "The route's backend does not exist"),
    "NoBackends": (500, "The route has no backend that takes requests"),
    "NoEndpoints": (503, "The upstream has no live endpoint"),
    "CircuitOpen": (503, "The upstream is failing and is not called for a moment"),
    "UpstreamConnectFailure": (502, "The upstream could not be reached"),
    "UpstreamReset": (502, "The upstream broke the connection"),
    "UpstreamProtocolError": (502, "The upstream's answer is not valid HTTP"),
    "PluginUnavailable": (503, "A plugin that this route needs is not running"),
    "Overloaded": (503, "The gateway is serving as many requests as it can"),
    "NotConfigured": (503, "The gateway has no configuration yet"),
    "InternalError": (500, "The gateway failed"),
}
"""reason → status and title. Every reason a client can read."""

_RETRY_AFTER = {"NoEndpoints", "CircuitOpen", "Overloaded", "NotConfigured", "PluginUnavailable"}


def problem(reason: str, request_id: str, detail: str = "") -> Reply:
    """Return the reply for a reason of `TITLES`. detail: one sentence for the client, if there is more to say."""
    status, title = TITLES[reason]
    body = {"type": "about:blank", "title": title, "status": status, "reason": reason}
    if detail:
        body["detail"] = detail
    if request_id:
        body["request_id"] = request_id
    content = json.dumps(body).encode()
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if reason in _RETRY_AFTER:
        headers.append(("retry-after", "1"))
    return Reply(status, tuple(headers), content)
