"""Error answers as RFC 9457 `application/problem+json`: type, title, status, detail, reason, request_id, trace_id."""

from __future__ import annotations

import http
import json
import re
import uuid
from collections.abc import Mapping

from aiohttp import web

CONTENT_TYPE = "application/problem+json"
REQUEST_ID = web.RequestKey("nexus_request_id", str)
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")


def request_id(request: web.Request) -> str:
    """Return the request's id: the caller's `x-request-id` if it is short and plain, else a new one."""
    if REQUEST_ID in request:
        return request[REQUEST_ID]
    sent = request.headers.get("x-request-id", "")
    made = sent if _SANE_ID.match(sent) else str(uuid.uuid4())
    request[REQUEST_ID] = made
    return made


def title_of(status: int) -> str:
    """Return the status' standard phrase."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem(
    status: int,
    reason: str,
    detail: str,
    *,
    request_id: str = "",
    trace_id: str = "",
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> web.Response:
    """Return the answer. members: further JSON members of the problem; they cannot replace the standard ones."""
    body: dict[str, object] = {
        **(members or {}), "type": "about:blank", "title": title_of(status), "status": status, "detail": detail,
        "reason": reason,
    }  # fmt: skip
    if request_id:
        body["request_id"] = request_id
    if trace_id:
        body["trace_id"] = trace_id
    kept = {k: v for k, v in (headers or {}).items() if k.lower() not in ("content-type", "content-length")}
    return web.Response(status=status, body=json.dumps(body).encode(), content_type=CONTENT_TYPE, headers=kept)
