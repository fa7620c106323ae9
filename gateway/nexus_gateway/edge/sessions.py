"""Session persistence of one upstream: reads the session a client brings, and gives one to who has none."""

from __future__ import annotations

from nexus_core.snapshot import Persistence

from nexus_gateway.balance.keys import Request, find_cookie
from nexus_gateway.balance.persistence import Sessions as Seals
from nexus_gateway.resilience.endpoints import EndpointState


class Sessions:
    """The sessions of one upstream under one policy.

    secret: the same in all gateways that serve the same clients, or sessions end at each change of gateway.
    """

    __slots__ = ("_policy", "_seals")

    def __init__(self, policy: Persistence, secret: bytes, upstream: str) -> None:
        self._policy = policy
        self._seals = Seals(secret, upstream)

    def recall(self, request: Request, endpoints: tuple[EndpointState, ...], now_unix: float) -> EndpointState | None:
        """Return the endpoint of the client's session; None without one that is valid and whose endpoint is still there."""
        token = self._token(request)
        if not token:
            return None
        return self._seals.find(token, endpoints, now_unix, self._policy.absolute_s)

    def _token(self, request: Request) -> str:
        policy = self._policy
        if policy.kind == "header":
            return request.header(policy.name.lower()) or ""
        return find_cookie(request.header("cookie") or "", policy.name) or ""

    def lines(self, endpoint: EndpointState, now_unix: float, *, secure: bool) -> bytes:
        """Return the response line that begins a session on this endpoint."""
        policy = self._policy
        token = self._seals.seal(endpoint.authority, now_unix)
        if policy.kind == "header":
            return f"{policy.name.lower()}: {token}\r\n".encode()
        age = f"; Max-Age={int(policy.absolute_s)}" if policy.absolute_s else ""
        return f"set-cookie: {policy.name}={token}; Path=/; HttpOnly; SameSite=Lax{age}{'; Secure' if secure else ''}\r\n".encode()
