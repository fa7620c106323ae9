"""`direct-reply`: an answer of the configuration instead of an upstream's."""

from __future__ import annotations

from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.snapshot import DirectReply

from nexus_gateway.filters.place import Place

_WITHOUT_BODY = frozenset({204, 205, 304})
"""RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5."""


def build_reply(policy: DirectReply) -> Reply:
    """Return the reply. A status that has no body gets none, whatever the policy says; no content type without a body."""
    body = b"" if policy.status in _WITHOUT_BODY else policy.body.encode()
    typed = (("content-type", policy.content_type),) if body and policy.content_type else ()
    if policy.status in (204, 304):
        return Reply(policy.status, typed, body)
    return Reply(policy.status, (*typed, ("content-length", str(len(body)))), body)


class DirectReplyFilter:
    """Answers every request with the same reply."""

    __slots__ = ("_reply",)

    def __init__(self, policy: DirectReply) -> None:
        self._reply = build_reply(policy)

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Return the reply."""
        return self._reply

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Leave the response alone; a request that ended here has none."""
        return response
