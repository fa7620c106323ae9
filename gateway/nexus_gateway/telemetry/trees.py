"""The last traces, kept in memory as trees: what `nexus up` shows when there is no Jaeger. Bounded in every direction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_gateway.telemetry.redactions import is_secret, redact_query

MAX_SPANS_PER_TRACE = 512
MAX_ATTRIBUTES = 32
MAX_TEXT = 512


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One finished span. Ids are lower-case hex, parent_id empty for none. start_ns: Unix time. status: `ok`, `error` or empty."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


class TraceBook:
    """Keeps the newest traces. Spans of one trace may come from many services, in any order, long apart."""

    def __init__(self, max_traces: int) -> None:
        self.max_traces = max_traces
        self.feed: Callable[[], None] | None = None
        """Called before the book is read, so that whoever writes into it may do so only then."""
        self._traces: OrderedDict[str, dict[str, SpanRecord]] = OrderedDict()
        self.dropped = 0

    def add(self, span: SpanRecord) -> None:
        """Take one span; the oldest trace makes room for a new one."""
        trace = self._traces.get(span.trace_id)
        if trace is None:
            while len(self._traces) >= self.max_traces:
                self._traces.popitem(last=False)
            trace = self._traces[span.trace_id] = {}
        if len(trace) >= MAX_SPANS_PER_TRACE and span.span_id not in trace:
            self.dropped += 1
            return
        trace[span.span_id] = span

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest traces first, each with its spans as a tree. limit: traces, at most."""
        self._fed()
        chosen = list(self._traces.items())[::-1][: max(limit, 0)]
        return [_trace(trace_id, spans) for trace_id, spans in chosen]

    def find(self, trace_id: str) -> dict[str, Any] | None:
        """Return one trace as a tree, or None."""
        self._fed()
        spans = self._traces.get(trace_id)
        return _trace(trace_id, spans) if spans is not None else None

    def _fed(self) -> None:
        if self.feed is not None:
            self.feed()


def _trace(trace_id: str, spans: Mapping[str, SpanRecord]) -> dict[str, Any]:
    children: dict[str, list[SpanRecord]] = {}
    roots: list[SpanRecord] = []
    for span in sorted(spans.values(), key=lambda each: (each.start_ns, each.span_id)):
        # A parent that is not here (the caller does not send us spans, or has not yet) makes its child a root.
        if span.parent_id in spans and span.parent_id != span.span_id:
            children.setdefault(span.parent_id, []).append(span)
        else:
            roots.append(span)
    start_ns = min(span.start_ns for span in spans.values())
    end_ns = max(span.end_ns for span in spans.values())
    shown: set[str] = set()
    trees = [_tree(root, children, start_ns, shown) for root in roots]
    # Spans in a parent cycle (a broken sender) hang off no root; show them flat rather than not at all.
    trees.extend(_tree(span, {}, start_ns, shown) for span in spans.values() if span.span_id not in shown)
    return {
        "trace_id": trace_id,
        "start_unix_ms": round(start_ns / 1e6, 3),
        "duration_ms": round((end_ns - start_ns) / 1e6, 3),
        "services": sorted({span.service for span in spans.values()}),
        "span_count": len(spans),
        "error": any(span.status == "error" for span in spans.values()),
        "spans": trees,
    }


def _tree(root: SpanRecord, children: Mapping[str, list[SpanRecord]], zero_ns: int, shown: set[str]) -> dict[str, Any]:
    """Return the root's subtree. A loop and not a recursion: a sender decides how deep it is."""
    top = _node(root, zero_ns)
    shown.add(root.span_id)
    stack = [(root, top)]
    while stack:
        span, node = stack.pop()
        for child in children.get(span.span_id, ()):
            made = _node(child, zero_ns)
            shown.add(child.span_id)
            node["children"].append(made)
            stack.append((child, made))
    return top


def _node(span: SpanRecord, zero_ns: int) -> dict[str, Any]:
    return {
        "span_id": span.span_id,
        "service": span.service,
        "name": span.name,
        "kind": span.kind,
        "offset_ms": round((span.start_ns - zero_ns) / 1e6, 3),
        "duration_ms": round((span.end_ns - span.start_ns) / 1e6, 3),
        "status": span.status,
        "attributes": {name: _shown(name, value) for name, value in list(span.attributes.items())[:MAX_ATTRIBUTES]},
        "children": [],
    }


def _shown(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name == "url.query":
        return redact_query(value)[:MAX_TEXT]
    if name.startswith(("http.request.header.", "http.response.header.")) and is_secret(name.rpartition(".")[2]):
        return "[redacted]"
    return value[:MAX_TEXT]
