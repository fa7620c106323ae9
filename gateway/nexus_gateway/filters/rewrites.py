"""`url-rewrite`: another host or path for the upstream."""

from __future__ import annotations

from dataclasses import replace

from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.snapshot import UrlRewrite

from nexus_gateway.filters.place import Place, replace_prefix


class RewriteFilter:
    """Rewrites the Host header and the path. The query stays as it is. policy: what it carries out."""

    __slots__ = ("policy",)

    def __init__(self, policy: UrlRewrite) -> None:
        self.policy = policy

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Return the rewritten head."""
        policy = self.policy
        if policy.path_kind == "full":
            head = replace(head, path=policy.path or "/")
        elif policy.path_kind == "prefix":
            head = replace(head, path=replace_prefix(head.path, place.matched, policy.path))
        if policy.hostname:
            head = replace(head.with_header("host", policy.hostname), host=policy.hostname)
        return head

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Leave the response alone."""
        return response
