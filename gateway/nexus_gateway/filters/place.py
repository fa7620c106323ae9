"""What filters need to know of a request besides its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nexus_core.hooks import Reply, RequestHead, ResponseHead


@dataclass(frozen=True, slots=True)
class Place:
    """Where the request matched.

    matched: the match's path, no slash at its end save `/`. scheme: as the client used it. port: the listener's, or the one that
    the client named where it is reached at another; 0 for the scheme's own.
    """

    matched: str = "/"
    scheme: str = "http"
    port: int = 0


class HeadFilter(Protocol):
    """One filter of one rule."""

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Return the head that goes on, or a reply that ends the request."""
        ...

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the head the client gets. request: as this filter's `on_request` returned it, like a plugin's."""
        ...


def replace_prefix(path: str, matched: str, replacement: str) -> str:
    """Return the path with its matched prefix replaced, as the Gateway API's table for ReplacePrefixMatch says.

    `/foo` → `/xyz` turns `/foo/bar` into `/xyz/bar` and `/foo` into `/xyz`; → `/` or empty gives `/bar` and `/`.
    """
    rest = path if matched == "/" else path[len(matched) :]
    base = replacement.rstrip("/")
    if not rest:
        return base or "/"
    return base + (rest if rest.startswith("/") else "/" + rest)
