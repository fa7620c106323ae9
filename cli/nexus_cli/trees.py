"""Traces as text trees. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render_trace(trace: Mapping[str, Any]) -> str:
    """Return a trace, as the admin API gives it, as lines: each span below its parent, with service and milliseconds."""
    error = "  ERROR" if trace.get("error") else ""
    spans, count = trace.get("spans", []), trace.get("span_count", 0)
    head = f"trace {trace.get('trace_id', '')}  {trace.get('duration_ms', 0):.1f} ms  {count} spans{error}"
    lines = [head]
    # A loop and not a recursion: a service decides how deep a trace is.
    stack = [(span, "", index == len(spans) - 1) for index, span in reversed(list(enumerate(spans)))]
    while stack:
        span, indent, last = stack.pop()
        failed = "  ERROR" if span.get("status") == "error" else ""
        text = f"{span.get('service', '')}: {span.get('name', '')}"
        lines.append(f"{indent}{'└─' if last else '├─'} {text}  {span.get('duration_ms', 0):.1f} ms{failed}")
        below = span.get("children", [])
        deeper = indent + ("   " if last else "│  ")
        stack.extend((child, deeper, index == len(below) - 1) for index, child in reversed(list(enumerate(below))))
    return "\n".join(lines)


def services_on_way(trace: Mapping[str, Any]) -> list[str]:
    """Return the services of a trace, in the order in which their first spans stand in the tree."""
    found: dict[str, None] = {}
    stack = list(reversed(trace.get("spans", [])))
    while stack:
        span = stack.pop()
        found.setdefault(str(span.get("service", "")))
        stack.extend(reversed(span.get("children", [])))
    return list(found)
