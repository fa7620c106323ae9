"""Access log records: one flat JSON object a request, secrets redacted."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_gateway.telemetry.redactions import REDACTED as REDACTED
from nexus_gateway.telemetry.redactions import is_secret as is_secret
from nexus_gateway.telemetry.redactions import redact_headers as redact_headers
from nexus_gateway.telemetry.redactions import redact_query as redact_query

MAX_PATH = 2048
"""Characters of path and query that are logged."""


@dataclass(slots=True)
class AccessRecord:
    """One request, filled in as it goes. duration_s: head read to last byte handed to the client's socket.

    reason: why the gateway answered itself, or why it broke the response off; empty otherwise.
    """

    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    status: int = 0
    client_ip: str = ""
    request_id: str = ""
    trace_id: str = ""
    route: str = ""
    upstream: str = ""
    endpoint: str = ""
    attempts: int = 0
    bytes_out: int = 0
    duration_s: float = 0.0
    reason: str = ""
    user_agent: str = ""

    def fields(self, at_utc: str) -> dict[str, str | int | float]:
        """Return the log line's fields, in a stable order, without empty ones. at_utc: RFC 3339."""
        path = self.path[:MAX_PATH]
        query = redact_query(self.query)[:MAX_PATH]
        values: dict[str, str | int | float] = {
            "time": at_utc,
            "kind": "access",
            "method": self.method,
            "host": self.host,
            "path": f"{path}?{query}" if query else path,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1000, 3),
            "bytes_out": self.bytes_out,
            "client_ip": self.client_ip,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "route": self.route,
            "upstream": self.upstream,
            "endpoint": self.endpoint,
            "attempts": self.attempts,
            "reason": self.reason,
            "user_agent": self.user_agent[:200],
        }
        return {name: value for name, value in values.items() if value != ""}
