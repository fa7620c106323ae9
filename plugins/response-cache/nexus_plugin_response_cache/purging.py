"""Requests that remove what is stored: who may, and what. Pure."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from nexus_sdk.plugin import Reply, RequestHead

_METHODS = frozenset({"POST", "PURGE", "DELETE"})
_MOST = 100


@dataclass(frozen=True, slots=True)
class Purge:
    """What to remove. urls: as `(host, path, query)`."""

    everything: bool = False
    tags: tuple[str, ...] = ()
    urls: tuple[tuple[str, str, str], ...] = ()


def parse(request: RequestHead, token: str) -> Purge | Reply:
    """Return what a request to the purge path wants removed, or the answer that refuses it.

    `?all=true`, `?tag=a&tag=b`, `?url=https://shop.example/a?b=c`; a URL without a host is one of the host that was asked.
    """
    if request.method not in _METHODS:
        return problem(405, "PurgeInvalid", "Purging takes POST, PURGE or DELETE.", (("allow", "DELETE, POST, PURGE"),))
    given = [value for name, value in request.headers if name == "authorization"]
    scheme, _, said = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    same = hmac.compare_digest(said.strip().encode("utf-8", "surrogateescape"), token.encode())
    if scheme.lower() != "bearer" or not same:
        detail = "Purging takes the configured token as `Authorization: Bearer …`."
        return problem(401, "PurgeRefused", detail, (("www-authenticate", "Bearer"),))
    try:
        pairs = parse_qsl(request.query, strict_parsing=True, max_num_fields=_MOST)
        urls = [urlsplit(value) for name, value in pairs if name == "url"]
        found = tuple([((each.hostname or request.host).lower(), each.path or "/", each.query) for each in urls])
    except ValueError:
        pairs, found = [], ()
    tags = tuple([value.strip().lower() for name, value in pairs if name == "tag" and value.strip()])
    everything = ("all", "true") in pairs
    if not (everything or tags or found):
        return problem(
            400, "PurgeInvalid", f"Say what to purge: ?all=true, ?tag=a&tag=b or ?url=/path, at most {_MOST} at once."
        )
    return Purge(everything, tags, found)


def answer(purged: int, scope: str) -> Reply:
    """Return the answer to a purge. scope: `worker` or `shared`, whose store it was."""
    return Reply(200, _TYPE, json.dumps({"purged": purged, "scope": scope}).encode())


def problem(status: int, reason: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return a refusal."""
    body: Mapping[str, Any] = {
        "type": "about:blank",
        "title": "Not done",
        "status": status,
        "reason": reason,
        "detail": detail,
    }
    return Reply(
        status,
        (("content-type", "application/problem+json"), ("cache-control", "no-store"), *headers),
        json.dumps(body).encode(),
    )


_TYPE = (("content-type", "application/json"), ("cache-control", "no-store"))
