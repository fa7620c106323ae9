"""Reads one trace from a gateway's memory or from Jaeger, in the form of the admin API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from nexus_cli.tour.world import StepError

Reader = Callable[[str], Awaitable[dict[str, Any] | None]]


def from_admin(session: aiohttp.ClientSession, admin: str) -> Reader:
    """admin: base URL of the admin API."""

    async def read(trace_id: str) -> dict[str, Any] | None:
        found = await _get(session, f"{admin}/traces/{trace_id}", "The admin API")
        return found if isinstance(found, dict) else None

    return read


def from_jaeger(session: aiohttp.ClientSession, jaeger: str) -> Reader:
    """jaeger: base URL of its query API, such as http://127.0.0.1:16686."""

    async def read(trace_id: str) -> dict[str, Any] | None:
        found = await _get(session, f"{jaeger}/api/traces/{trace_id}", "Jaeger")
        traces = found.get("data") if isinstance(found, dict) else None
        return build_tree(traces[0]) if traces else None

    return read


async def _get(session: aiohttp.ClientSession, url: str, who: str) -> Any:
    try:
        async with session.get(url) as reply:
            return await reply.json() if reply.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise StepError(f"{who} does not answer at {url}: {error or type(error).__name__}.") from error


def build_tree(trace: dict[str, Any]) -> dict[str, Any]:
    """Return one trace of Jaeger's API as the admin API would give it. Times there are microseconds."""
    services = {key: process["serviceName"] for key, process in trace["processes"].items()}
    started = min(span["startTime"] for span in trace["spans"])
    ended = max(span["startTime"] + span["duration"] for span in trace["spans"])
    nodes: dict[str, dict[str, Any]] = {}
    parents: dict[str, str] = {}
    for span in sorted(trace["spans"], key=lambda each: each["startTime"]):
        tags = {tag["key"]: tag["value"] for tag in span.get("tags", ())}
        nodes[span["spanID"]] = {
            "span_id": span["spanID"],
            "service": services[span["processID"]],
            "name": span["operationName"],
            "kind": str(tags.get("span.kind", "")),
            "offset_ms": (span["startTime"] - started) / 1000,
            "duration_ms": span["duration"] / 1000,
            "status": "error" if tags.get("error") else "",
            "attributes": tags,
            "children": [],
        }
        references = [r["spanID"] for r in span.get("references", ()) if r["refType"] == "CHILD_OF"]
        if references:
            parents[span["spanID"]] = references[0]
    roots: list[dict[str, Any]] = []
    for span_id, node in nodes.items():
        parent = nodes.get(parents.get(span_id, ""))
        (roots if parent is None else parent["children"]).append(node)
    return {
        "trace_id": trace["traceID"],
        "duration_ms": (ended - started) / 1000,
        "services": sorted(set(services.values())),
        "span_count": len(nodes),
        "error": any(node["status"] == "error" for node in nodes.values()),
        "spans": roots,
    }
