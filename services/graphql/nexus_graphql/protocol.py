"""GraphQL over HTTP without HTTP: what a request asks, and in which media type its answer goes. Pure.

Source: GraphQL over HTTP, draft of the GraphQL foundation ("the spec" below).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESPONSE = "application/graphql-response+json"
JSON = "application/json"
_SERVED = {RESPONSE: RESPONSE, JSON: JSON, "application/*": JSON, "*/*": JSON}
_UTF8 = frozenset({"utf-8", "utf8"})


class Refused(Exception):
    """The request is no GraphQL request. status: HTTP status; code: for `extensions`. The text says how to fix it."""

    def __init__(self, status: int, code: str, text: str, allow: str = "") -> None:
        super().__init__(text)
        self.status, self.code, self.allow = status, code, allow


@dataclass(frozen=True, slots=True)
class GraphqlRequest:
    query: str
    operation_name: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def choose_media(accept: str | None) -> str | None:
    """Return the best of the two response types for an Accept header; None when neither will do.

    Without a header it is application/json, as the spec asks of servers until 2025 and as legacy clients need.
    """
    if accept is None or not accept.strip():
        return JSON
    best: tuple[float, str] | None = None
    for media, q, parameters in _ranges(accept):
        served = _SERVED.get(media)
        if served is None or q <= 0 or parameters.get("charset", "utf-8") not in _UTF8:
            continue
        if best is None or q > best[0]:
            best = (q, served)
    return best[1] if best else None


def wants_page(accept: str | None) -> bool:
    """Return whether a browser asks: text/html is named, and not less welcome than the response types."""
    ranks = {media: q for media, q, _ in _ranges(accept or "")}
    page = ranks.get("text/html", 0.0)
    return page > 0 and page >= max(ranks.get(RESPONSE, 0.0), ranks.get(JSON, 0.0))


def _ranges(accept: str) -> list[tuple[str, float, dict[str, str]]]:
    found = []
    for part in accept.split(",")[:50]:
        media, *rest = [x.strip() for x in part.split(";")]
        parameters = {}
        for text in rest:
            key, _, value = text.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"').lower()
        try:
            q = float(parameters.pop("q", "1"))
        except ValueError:
            q = 0.0
        found.append((media.lower(), q, parameters))
    return found


def parse_get(query: Mapping[str, str]) -> GraphqlRequest:
    """Return the request of a URL query; `variables` and `extensions` are JSON texts. Raises Refused."""
    members: dict[str, Any] = {k: v for k, v in query.items() if k in ("query", "operationName")}
    for key in ("variables", "extensions"):
        if query.get(key):
            members[key] = _decode(query[key], f"The URL parameter {key!r}")
    if "query" not in members:
        raise Refused(
            400, "BAD_REQUEST", 'The URL parameter \'query\' is missing. Write ?query={…}, or POST {"query": "…"}.'
        )
    return _check(members)


def parse_post(content_type: str, body: bytes) -> GraphqlRequest:
    """Return the request of a body. Raises Refused: 415 for another content type, 400 for another shape.

    Only application/json is taken: a browser asks first before it sends that to another origin, so a page of a
    stranger cannot make a visitor's browser change anything.
    """
    media, *rest = [x.strip().lower() for x in content_type.split(";")]
    charset = next((x.partition("=")[2].strip('"') for x in rest if x.startswith("charset=")), "utf-8")
    if media != JSON or charset not in _UTF8:
        shown = content_type[:60] or "missing"
        raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", f"The content type is {shown}. Send application/json in UTF-8.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as err:
        raise Refused(400, "BAD_REQUEST", "The body is not UTF-8. Encode it so.") from err
    members = _decode(text, "The body")
    if isinstance(members, list):
        raise Refused(400, "BATCHING_UNSUPPORTED",
                      "The body is an array. Batches are not supported: send one operation a request, "
                      "or several fields in one operation.")  # fmt: skip
    if not isinstance(members, dict):
        raise Refused(400, "BAD_REQUEST", 'The body is not an object. Send {"query": "…"}.')
    return _check(members)


def _decode(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise Refused(400, "BAD_REQUEST", f"{what} is not JSON ({str(err)[:100]}).") from err


def _check(members: Mapping[str, Any]) -> GraphqlRequest:
    query, name = members.get("query"), members.get("operationName")
    variables, extensions = members.get("variables"), members.get("extensions")
    if not isinstance(query, str):
        raise Refused(400, "BAD_REQUEST", "'query' has to be a string: the GraphQL document.")
    if name is not None and not isinstance(name, str):
        raise Refused(400, "BAD_REQUEST", "'operationName' has to be a string or null.")
    if variables is not None and not isinstance(variables, dict):
        raise Refused(400, "BAD_REQUEST", "'variables' has to be an object or null.")
    if extensions is not None and not isinstance(extensions, dict):
        raise Refused(400, "BAD_REQUEST", "'extensions' has to be an object or null.")
    return GraphqlRequest(query, name or None, variables or {})
