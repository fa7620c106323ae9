"""`redirect`: a Location instead of an upstream."""

from __future__ import annotations

from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.snapshot import Redirect

from nexus_gateway.filters.place import Place, replace_prefix

_DEFAULT_PORT = {"http": 80, "https": 443}


class RedirectFilter:
    """Answers with the configured status and a Location. The query goes with it."""

    __slots__ = ("_policy",)

    def __init__(self, policy: Redirect) -> None:
        self._policy = policy

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Return the redirect."""
        policy = self._policy
        scheme = policy.scheme or place.scheme
        path = head.path
        if policy.path_kind == "full":
            path = policy.path or "/"
        elif policy.path_kind == "prefix":
            path = replace_prefix(head.path, place.matched, policy.path)
        # Gateway API: a scheme without a port takes the scheme's well-known port; neither takes the listener's.
        port = policy.port or (0 if policy.scheme else place.port)
        authority = policy.hostname or head.host
        if port and port != _DEFAULT_PORT[scheme]:
            authority = f"{authority}:{port}"
        location = f"{scheme}://{authority}{path}" + (f"?{head.query}" if head.query else "")
        return Reply(policy.status, (("location", location), ("content-length", "0")))

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Leave the response alone; redirects have none."""
        return response
