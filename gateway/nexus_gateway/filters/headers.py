"""`header-modifier`: set, add and remove headers of the request or the response."""

from __future__ import annotations

from dataclasses import replace

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead
from nexus_core.snapshot import HeaderModifier

from nexus_gateway.filters.place import Place

# Framing and routing belong to the gateway: a filter that could set these could smuggle requests.
_PROTECTED = frozenset({"content-length", "transfer-encoding", "connection", "host", "upgrade", "te", "trailer"})


class HeaderFilter:
    """Removes, then sets (replaces), then adds (appends). Framing headers and Host are left alone."""

    __slots__ = ("_add", "_gone", "_on_request", "_set")

    def __init__(self, policy: HeaderModifier) -> None:
        self._on_request = policy.on == "request"
        self._set = tuple((name, value) for name, value in policy.set if name not in _PROTECTED)
        self._add = tuple((name, value) for name, value in policy.add if name not in _PROTECTED)
        self._gone = (frozenset(policy.remove) | {name for name, _ in self._set}) - _PROTECTED

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Change the request's headers, if the policy is for requests."""
        return replace(head, headers=self._change(head.headers)) if self._on_request else head

    def on_response(self, head: ResponseHead) -> ResponseHead:
        """Change the response's headers, if the policy is for responses."""
        return head if self._on_request else replace(head, headers=self._change(head.headers))

    def _change(self, headers: Headers) -> Headers:
        return (*(pair for pair in headers if pair[0] not in self._gone), *self._set, *self._add)
