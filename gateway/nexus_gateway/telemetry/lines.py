"""The access log's lines: one flat JSON object a request, secrets redacted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from nexus_gateway.telemetry.contexts import trace_id_of
from nexus_gateway.telemetry.finished import Finished, text
from nexus_gateway.telemetry.redactions import redact_query

MAX_PATH = 2048
"""Characters of path, and of query, that are logged."""
MAX_AGENT = 200

_encode = msgspec.json.Encoder().encode


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """The fields of a line, in their order; empty texts are left out."""

    time: str
    method: str
    status: int
    duration_ms: float
    bytes_in: int
    bytes_out: int
    attempts: int
    kind: str = ""
    host: str = ""
    path: str = ""
    client_ip: str = ""
    request_id: str = ""
    trace_id: str = ""
    route: str = ""
    upstream: str = ""
    endpoint: str = ""
    reason: str = ""
    user_agent: str = ""
    grpc_status: str = ""


def log_line(done: Finished, offset_s: float) -> bytes:
    """Return the line of a request, with its newline. offset_s: what to add to monotonic seconds for Unix time."""
    fields = log_fields(done, offset_s)
    try:
        return _encode(fields) + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair is no UTF-8: JSON's own escapes can say it.
        shown = {name: value for name, value in msgspec.structs.asdict(fields).items() if value != ""}
        return json.dumps(shown, ensure_ascii=True).encode() + b"\n"


def log_fields(done: Finished, offset_s: float) -> Line:
    """Return the fields of a request's line."""
    line, tried = done.line, done.tried
    path = line.path[:MAX_PATH]
    query = redact_query(line.query)[:MAX_PATH] if line.query else ""
    return Line(
        stamp(done.ended_at + offset_s),
        line.method,
        done.status,
        round((done.ended_at - done.started_at) * 1000, 3),
        done.bytes_in,
        done.bytes_out,
        len(tried),
        "access",
        done.block.host,
        f"{path}?{query}" if query else path,
        text(done.client_ip),
        text(done.request_id),
        trace_id_of(done.lines).decode("latin-1"),
        done.route,
        done.upstream,
        tried[-1].endpoint if tried else "",
        done.reason,
        done.block.joined.get("user-agent", "")[:MAX_AGENT],
        text(done.grpc),
    )


def stamp(at_unix: float) -> str:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    milliseconds = int(at_unix * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(16)
def _second(at_unix: int) -> str:
    return datetime.fromtimestamp(at_unix, UTC).strftime("%Y-%m-%dT%H:%M:%S")
