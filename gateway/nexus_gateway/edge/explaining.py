"""What the running gateway would do with a request: what its Snapshot says, and how the endpoints are at this moment.

What the Snapshot says never changes, so it is worked out in a thread: every match of thousands of routes is asked why it lost,
which takes tens of milliseconds that requests must not wait for. What moves is read on the event loop.

It decides on copies of the endpoints' states; nothing it does changes what the next request gets.
"""

from __future__ import annotations

import asyncio
import copy
from time import monotonic, time
from typing import Any

import msgspec
from nexus_core.match.asking import Question
from nexus_core.match.descriptions import describe

from nexus_gateway.balance.availability import available
from nexus_gateway.balance.outlooks import Reason, foresee, reasons
from nexus_gateway.edge.listeners.asking import Doors, Seen, connect, see
from nexus_gateway.edge.listeners.plans import Plan
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend, Runtime
from nexus_gateway.resilience import breakers
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry.redactions import is_secret, redact_query
from nexus_gateway.telemetry.shown import without_header_values

CLOSED = Doors(Plan({}, {}, {}), {})
"""Nothing is open, or it does not matter."""


async def explain(runtime: Runtime, question: Question, zone: str = "", doors: Doors = CLOSED) -> dict[str, Any]:
    """Return `descriptions.describe` without secrets, with the gateway's generation, its plugins' states, and for each
    upstream its endpoints (which could serve and why others could not), circuit, places, and which endpoint it would be.

    zone: the gateway's own. doors: what it has open. Of connections and datagrams, `asking.connect`'s answer with endpoints.
    """
    if question.is_stream:
        answer = await asyncio.to_thread(connect, runtime.published.snapshot, doors, question)
        return _with_endpoints(answer, runtime, zone)
    seen = see(runtime.router, doors, question)
    if not isinstance(seen, Seen):
        return {**seen, "generation": runtime.published.generation}
    answer = await asyncio.to_thread(_describe, runtime, question, seen)
    answer["generation"] = runtime.published.generation
    answer["note"] = seen.note
    answer["request"]["query"] = redact_query(question.query)
    entry = seen.router.find(question.method, question.host, question.path, question.headers, question.query)
    if entry is None:
        return answer
    plan = entry.payload
    for row, slot in zip(answer["plugins"], plan.plugins, strict=True):
        row["state"] = slot.report.state
        row["running_version"] = slot.report.version
        if slot.report.message:
            row["message"] = slot.report.message
    now = monotonic()
    for row, backend in zip(answer["upstreams"], plan.backends, strict=True):
        pool = backend.pool
        row["found"] = pool is not None
        if pool is not None:
            live = _live(pool, zone, now)
            row.update(_pool(pool, live, now))
            row["retry"], row["timeouts"] = (row["policies"][name]["value"] for name in ("retry", "timeouts"))
            row["pick"] = _pick(pool, backend, live, question, now)
    return answer


def _with_endpoints(answer: dict[str, Any], runtime: Runtime, zone: str) -> dict[str, Any]:
    answer["generation"] = runtime.published.generation
    now = monotonic()
    for row in answer["upstreams"]:
        pool = runtime.pools.get(row["upstream"])
        if pool is not None:
            row.update(_pool(pool, _live(pool, zone, now), now))
    return answer


def _describe(runtime: Runtime, question: Question, seen: Seen) -> dict[str, Any]:
    described = describe(runtime.published.snapshot, seen.router, question, secret=is_secret, listeners=seen.listeners)
    found: dict[str, Any] = without_header_values(described)
    return found


def show_pool(pool: Pool, zone: str) -> dict[str, Any]:
    """Return an upstream's endpoints as the gateway sees them now."""
    now = monotonic()
    return _pool(pool, _live(pool, zone, now), now)


def _live(pool: Pool, zone: str, now: float) -> tuple[EndpointState, ...]:
    """Return copies of the endpoints that the next request could get, with their shares. `Pool.live` may wait for that
    request to be worked out anew, and working it out writes shares."""
    states = [copy.copy(state) for state in pool.endpoints]
    return available(states, pool.upstream.balancing, zone, now)[0]


def _pool(pool: Pool, live: tuple[EndpointState, ...], now: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "source": msgspec.to_builtins(pool.upstream.endpoints),
        "algorithm": pool.upstream.balancing.algorithm,
        "endpoints": [_endpoint(pool, state, live, now) for state in pool.endpoints],
    }
    breaker = pool.service_breaker
    if breaker is not None:
        for_s = max(0.0, breaker.reopens_at - now) if breaker.state == "open" else 0.0
        shown["service_circuit"] = {"state": breaker.state, "for_s": round(for_s, 3)}
    limiter = pool.limiter
    if limiter is not None:
        shown["places"] = {"taken": limiter.taken, "limit": limiter.limit}
    return shown


def _endpoint(pool: Pool, state: EndpointState, live: tuple[EndpointState, ...], now: float) -> dict[str, Any]:
    known = {each.authority: each for each in live}
    serves = state.authority in known
    against = reasons(state, pool.upstream.balancing, now, serves=serves)
    return {
        "endpoint": state.authority,
        "id": state.endpoint.id,
        "weight": state.weight,
        "share": round(known[state.authority].share, 3) if serves else 0.0,
        "zone": state.zone,
        "active": state.active,
        "attempts": state.attempts,
        "failures": state.failures,
        "circuit": _circuit(state.breaker),
        "healthy": state.healthy,
        "serves": serves,
        "why_not": [_reason(each) for each in against],
    }


def _circuit(breaker: breakers.Breaker) -> str:
    """Return the circuit's state, `off` for one that nothing opens."""
    return "off" if breaker.policy.is_off and breaker.state == breakers.CLOSED else breaker.state


def _pick(
    pool: Pool, backend: Backend, live: tuple[EndpointState, ...], question: Question, now: float
) -> dict[str, Any]:
    key = pool.key(question) if pool.key is not None else b""
    session = None
    if backend.sessions is not None:
        session = backend.sessions.recall(question, pool.endpoints, time())
    held = session.authority if session is not None else ""
    return foresee(pool.upstream.balancing, live, key, now, session=held)


def _reason(reason: Reason) -> dict[str, Any]:
    return {"why": reason.why, "for_s": round(reason.for_s, 3), "text": reason.text}
