"""The circuit breaker of one endpoint. Circuit open = requests refused.

The states and their transitions are pybreaker's; this module hands it our clock and mirrors its state into plain attributes,
because a call through the library costs 0.7 µs and the hot path asks on every attempt. pybreaker is told of failures, of
the successes that matter (after a failure, or of a probe) and of the end of the open time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pybreaker
from nexus_core.snapshot import CircuitBreaker as BreakerPolicy

CLOSED = "closed"  # requests pass; consecutive failures are counted
OPEN = "open"  # requests are refused until `reset_s` is over
HALF_OPEN = "half-open"  # one probe passes; its outcome closes or opens the circuit


class _AttemptFailed(Exception):
    """Carries "the attempt failed" into pybreaker."""


class _Mirror(pybreaker.CircuitBreakerListener):
    """Copies each transition into the attributes of our breaker."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self._breaker.entered(new_state.name)


class Breaker:
    """Counts consecutive failures of one endpoint and refuses requests for a while after too many.

    state: `closed`, `open` or `half-open`. opened_at: monotonic seconds of the last opening.
    """

    __slots__ = ("_machine", "_now", "_on_change", "_probing", "failing", "opened_at", "policy", "state")

    def __init__(self, policy: BreakerPolicy, on_change: Callable[[str], None] | None = None) -> None:
        """on_change: called with the new state at each transition, for metrics and logs."""
        self.policy = policy
        self.state = CLOSED
        self.opened_at = 0.0
        self.failing = False
        self._probing = False
        self._now = 0.0
        self._on_change = on_change
        # Kept from tripping by its own clock: `reset_timeout` is never consulted, since we leave the open state by
        # `half_open()` when our clock says so, and never call through an open circuit.
        self._machine = pybreaker.CircuitBreaker(
            fail_max=policy.failures,
            reset_timeout=policy.reset_s,
            listeners=[_Mirror(self)],
            state_storage=pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED),
            throw_new_error_on_trip=False,
        )

    def apply(self, policy: BreakerPolicy) -> None:
        """Take over a changed policy; state and counts stay."""
        self.policy = policy
        self._machine.fail_max = policy.failures
        self._machine.reset_timeout = policy.reset_s

    def entered(self, state: str) -> None:
        """Mirror a transition; called by pybreaker's listener alone."""
        self.state = state
        self._probing = False
        if state == OPEN:
            self.opened_at = self._now
        self.failing = state != CLOSED
        if self._on_change is not None:
            self._on_change(state)

    def would_allow(self, now: float) -> bool:
        """Return whether `acquire` would let a request pass, without taking the probe."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN:
            return now >= self.opened_at + self.policy.reset_s
        return not self._probing

    def acquire(self, now: float) -> bool:
        """Return whether a request may pass; it then owes one `success`, `failure` or `abandon`."""
        if self.state == CLOSED:
            return True
        if not self.would_allow(now):
            return False
        if self.state == OPEN:
            self._now = now
            self._machine.half_open()
        self._probing = True
        return True

    def success(self, now: float, *, probe: bool = False) -> None:
        """Count an attempt that the endpoint answered well. probe: whether it was let through a half-open circuit."""
        if not self.failing or self._is_late(probe):
            return
        self._now = now
        self._machine.call(_nothing)
        self.failing = self.state != CLOSED

    def failure(self, now: float, *, probe: bool = False) -> None:
        """Count an attempt that failed: connect error, reset, timeout, 502, 503 or 504. probe: as for `success`."""
        if self._is_late(probe):
            return
        self._now = now
        self.failing = True
        try:
            self._machine.call(_fail)
        except _AttemptFailed:
            return  # pybreaker counts it and hands our own exception back

    def abandon(self, *, probe: bool = False) -> None:
        """Give an acquired pass back without a verdict: the client left before the endpoint answered. probe: as for `success`."""
        if not self._is_late(probe):
            self._probing = False

    def _is_late(self, probe: bool) -> bool:
        """Return whether an attempt began before the circuit opened: it says nothing about the endpoint now, and in a
        half-open circuit the place and the verdict are the probe's alone."""
        return self.state == OPEN or (self.state == HALF_OPEN and not probe)


def _nothing() -> None:
    return None


def _fail() -> None:
    raise _AttemptFailed
