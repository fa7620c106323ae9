"""The state of one request on its way upstream: which endpoint next, whether again, until when.

The edge asks `next`, does the I/O, and reports how it went; every decision is here, synchronous, on values. An edge
with another HTTP implementation drives the same `Exchange`.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nexus_core.snapshot import Retry, Timeouts

from nexus_gateway.resilience.attempts import IDEMPOTENT, Outcome, backoff_s, outcome_of
from nexus_gateway.resilience.breakers import HALF_OPEN
from nexus_gateway.resilience.budgets import RetryBudget
from nexus_gateway.resilience.endpoints import EndpointState

__all__ = ["IDEMPOTENT", "Again", "Attempt", "Exchange", "Outcome", "Refusal", "backoff_s", "outcome_of"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. number: 0 for the first. deadline_at: monotonic seconds until which its response head must be there; None for never."""

    endpoint: EndpointState
    number: int
    deadline_at: float | None
    breaker_state: str


class Refusal(enum.StrEnum):
    """Why there is no (further) attempt. Values are the reasons clients read."""

    NO_ENDPOINTS = "NoEndpoints"
    CIRCUIT_OPEN = "CircuitOpen"
    DEADLINE = "RequestTimeout"


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after this many seconds."""

    after_s: float


Picker = Callable[[Sequence[EndpointState]], EndpointState]


class Exchange:
    """One request against one upstream.

    replayable: whether the body can be sent again from its beginning. The endpoint counters and breakers are settled
    here: each `Attempt` is given back exactly once, with `settle`.
    """

    __slots__ = (
        "_budget", "_current", "_idempotent", "_pick", "_retry", "_rng", "_settled", "_timeouts", "_tried", "attempts",
        "budget_spent", "deadline_at",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        retry: Retry,
        timeouts: Timeouts,
        budget: RetryBudget,
        pick: Picker,
        rng: random.Random,
        now: float,
        client_timeout_s: float | None = None,
    ) -> None:
        """now: when the request's head was read. client_timeout_s: the client's own, shorter deadline, if it sent one."""
        self._idempotent = method in IDEMPOTENT
        self._retry = retry
        self._timeouts = timeouts
        self._budget = budget
        self._pick = pick
        self._rng = rng
        self._tried: set[str] = set()
        self._current: Attempt | None = None
        self._settled = True
        self.attempts = 0
        self.budget_spent = False
        limits = [limit for limit in (timeouts.request_s or None, client_timeout_s) if limit is not None]
        self.deadline_at = now + min(limits) if limits else None
        budget.request(now)

    def next(self, endpoints: Sequence[EndpointState], now: float) -> Attempt | Refusal:
        """Return the next attempt on one of the endpoints, or why there is none.

        endpoints: the live ones. Endpoints already tried are taken again only when no other is left.
        """
        if self.deadline_at is not None and now >= self.deadline_at:
            return Refusal.DEADLINE
        if not endpoints:
            return Refusal.NO_ENDPOINTS
        # The common case hands the pool's own tuple to the balancer, which may keep state by its identity.
        if self._tried or any(each.breaker.failing for each in endpoints):
            healthy = [each for each in endpoints if each.breaker.would_allow(now)]
            fresh = [each for each in healthy if each.authority not in self._tried]
            endpoints = fresh or healthy
            if not endpoints:
                return Refusal.CIRCUIT_OPEN
        chosen = self._pick(endpoints)
        if not chosen.breaker.acquire(now):  # pragma: no cover - `would_allow` above said yes at the same instant
            return Refusal.CIRCUIT_OPEN
        deadline = self.deadline_at
        if self._timeouts.try_s:
            own = now + self._timeouts.try_s
            deadline = own if deadline is None else min(own, deadline)
        attempt = Attempt(chosen, self.attempts, deadline, chosen.breaker.state)
        self.attempts += 1
        self._tried.add(chosen.authority)
        self._current = attempt
        self._settled = False
        chosen.active += 1
        chosen.attempts += 1
        return attempt

    def settle(self, outcome: Outcome, now: float) -> None:
        """Report how the running attempt ended: once for each attempt, when its response head is there or will not come."""
        attempt = self._current
        if attempt is None or self._settled:
            return
        self._settled = True
        breaker, probe = attempt.endpoint.breaker, attempt.breaker_state == HALF_OPEN
        if outcome is Outcome.ANSWERED:
            breaker.success(now, probe=probe)
        elif outcome is Outcome.ABANDONED:
            breaker.abandon(probe=probe)
        else:
            attempt.endpoint.failures += 1
            breaker.failure(now, probe=probe)

    def release(self) -> None:
        """Give the endpoint back: its response is over, or there will be none. Harmless when called again.

        An attempt that nobody settled (something broke before it could be made) is abandoned: a probe's place that is
        never given back would keep the circuit half-open, and its endpoint without requests, for ever.
        """
        if self._current is not None:
            self.settle(Outcome.ABANDONED, 0.0)
            self._current.endpoint.active -= 1
            self._current = None

    def again(self, outcome: Outcome, *, replayable: bool, now: float) -> Again | None:
        """Return when to try again after a failed attempt; None when the outcome is the client's to see.

        replayable: whether the request can be sent again from its beginning, body and all.
        """
        if self.attempts > self._retry.attempts or outcome.value not in self._retry.on or not replayable:
            return None
        # A request of which nothing was sent may be repeated whatever its method.
        if not self._idempotent and outcome is not Outcome.CONNECT_FAILURE:
            return None
        after_s = backoff_s(self.attempts, self._rng)
        if self.deadline_at is not None and now + after_s >= self.deadline_at:
            return None
        if not self._budget.take(self._retry.budget_ratio, now):
            self.budget_spent = True
            return None
        return Again(after_s)
