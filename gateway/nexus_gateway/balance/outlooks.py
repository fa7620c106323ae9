"""Which endpoints of an upstream could serve a request now and why others could not, and which one it would get.

For people who ask (`nexus explain`), never for a request. It follows `availability` and the balancers without changing
anything: an endpoint's share is read as it was last worked out, and hashing balancers are asked in a copy of their own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nexus_core.snapshot import Balancing

from nexus_gateway.balance.availability import Watched
from nexus_gateway.balance.candidates import Candidate
from nexus_gateway.balance.table import BALANCERS

HASHING = frozenset({"ring-hash", "maglev"})


class Known(Watched, Candidate, Protocol):
    """What is known of an endpoint, for both questions."""


@dataclass(frozen=True, slots=True)
class Reason:
    """why: `draining`, `subset`, `unhealthy`, `ejected`, `circuit-open`, `probing` or `zone`. for_s: seconds until it may end by
    itself, 0.0 for one that something else has to end. text: a sentence."""

    why: str
    text: str
    for_s: float = 0.0


def reasons(state: Watched, policy: Balancing, now: float, *, serves: bool) -> tuple[Reason, ...]:
    """Return all that speaks against an endpoint, most lasting first; empty when nothing does.

    serves: whether `availability` lets it take requests. One that does in spite of its reasons does because too few are
    available (`panic_ratio`). now: monotonic seconds.
    """
    found: list[Reason] = []
    if state.draining:
        found.append(Reason("draining", "It is about to stop and takes no new requests."))
    missing = [f"{name}={value}" for name, value in policy.subset if (name, value) not in state.meta]
    if missing:
        found.append(Reason("subset", f"It does not belong to the subset: its metadata lack {', '.join(missing)}."))
    if not state.healthy:
        found.append(Reason("unhealthy", "Active health checks fail."))
    if state.ejected_until > now:
        left = state.ejected_until - now
        found.append(
            Reason("ejected", f"It is ejected for {left:.1f} s more: too many of its answers were errors.", left)
        )
    if not state.breaker.would_allow(now):
        left = state.breaker.reopens_at - now
        if left > 0.0:
            found.append(Reason("circuit-open", f"Its circuit is open; a probe passes in {left:.1f} s.", left))
        else:
            found.append(Reason("probing", "Its circuit is half-open, and its probes are on their way."))
    if not found and not serves:
        zone = state.zone or "no zone"
        found.append(Reason("zone", f"It is in {zone}; endpoints of the gateway's own zone can take all requests."))
    return tuple(found)


def foresee(policy: Balancing, live: Sequence[Known], key: bytes, now: float, *, session: str = "") -> dict[str, Any]:
    """Return which endpoint a first attempt would get, or what decides between which.

    live: those that take requests now. key: what stands for the client, empty without. session: authority of the endpoint
    whose session the request brings, empty without one.
    Keys: `endpoint` (its authority, or None when it is drawn), `by` (`session`, `hash`, `only`, `draw`, `turn`, `nothing`),
    `why` (a sentence), `candidates` with their share of 1.
    """
    candidates = _candidates(live)
    if not live:
        return {"endpoint": None, "by": "nothing", "why": "No endpoint takes requests now.", "candidates": []}
    held = next((each for each in live if each.authority == session), None)
    if held is not None:
        return _sure(held, "session", "The client's session belongs to it.", candidates)
    lost = "The client's session belongs to an endpoint that takes no requests now. " if session else ""
    algorithm = policy.algorithm
    if len(live) == 1:
        return _sure(live[0], "only", f"{lost}No other takes requests now.", candidates)
    if algorithm in HASHING and key:
        # Its owner follows from addresses and shares alone, so a balancer of our own gives the same answer and leaves
        # the plan of the one that serves as it is. The draw without a key is never asked.
        owner = BALANCERS[algorithm](random.Random(0)).pick(tuple(live), key, now)
        return _sure(owner, "hash", f"{lost}{algorithm} gives it the request's key.", candidates)
    by, why = _DRAWS[algorithm]
    return {"endpoint": None, "by": by, "why": lost + why, "candidates": candidates}


def _sure(state: Candidate, by: str, why: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    return {"endpoint": state.authority, "by": by, "why": why, "candidates": candidates}


def _candidates(live: Sequence[Known]) -> list[dict[str, Any]]:
    total = sum(each.share for each in live)
    return [{"endpoint": each.authority, "share": round(each.share / total, 4), "active": each.active} for each in live]


_NO_KEY = "The request has nothing to hash, so it is drawn by share."
_DRAWS = {
    "random": ("draw", "It is drawn by share."),
    "least-request": ("draw", "Two are drawn by share; the one with fewer running requests takes it."),
    "peak-ewma": ("draw", "Two are drawn by share; the one that should answer sooner takes it."),
    "round-robin": ("turn", "They take turns, as often as their shares say."),
    "ring-hash": ("draw", _NO_KEY),
    "maglev": ("draw", _NO_KEY),
}
