"""`header-modifier`: set, add and remove headers of the request or the response."""

from __future__ import annotations

from dataclasses import replace

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead
from nexus_core.snapshot import HeaderModifier

from nexus_gateway.filters.place import Place

FRAMING = frozenset(
    {"connection", "content-length", "host", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization",
     "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)  # fmt: skip
"""Framing, routing and what speaks of one connection belong to the gateway: a filter that could set these could smuggle requests."""
OWN_REQUEST = FRAMING | {
    "b3", "grpc-timeout", "traceparent", "tracestate", "uber-trace-id", "x-b3-flags", "x-b3-parentspanid", "x-b3-sampled",
    "x-b3-spanid", "x-b3-traceid", "x-nexus-debug", "x-request-timeout",
}  # fmt: skip
"""Also trace context and deadlines: the gateway writes them anew for each attempt."""
OWN_RESPONSE = FRAMING | {"date"}


class HeaderFilter:
    """Removes, then sets (replaces), then adds (appends). The gateway's own headers are left alone.

    of_request: whether it changes requests, else responses. gone: names, lower-case. lines: what is appended, in order.
    """

    __slots__ = ("gone", "lines", "of_request")

    def __init__(self, policy: HeaderModifier) -> None:
        self.of_request = policy.on == "request"
        own = OWN_REQUEST if self.of_request else OWN_RESPONSE
        self.lines = tuple((name, value) for name, value in (*policy.set, *policy.add) if name not in own)
        self.gone = (frozenset(policy.remove) | {name for name, _ in policy.set}) - own

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Change the request's headers, if the policy is for requests."""
        return replace(head, headers=self._change(head.headers)) if self.of_request else head

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Change the response's headers, if the policy is for responses."""
        return response if self.of_request else replace(response, headers=self._change(response.headers))

    def _change(self, headers: Headers) -> Headers:
        gone = self.gone
        return (*(pair for pair in headers if pair[0] not in gone), *self.lines)
