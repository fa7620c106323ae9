"""A circuit breaker per endpoint: pybreaker's states, our clock. Circuit open = requests refused. Pure.

pybreaker runs the function it guards inside its lock, which an event loop cannot wait in; so the attempt happens
outside, and only its outcome is reported: `allow` before, `succeeded` or `failed` after. pybreaker is called on failures
and in half-open; a healthy endpoint costs an attribute read.
"""

from __future__ import annotations

from dataclasses import dataclass

import pybreaker


class _Failed(Exception):
    """What pybreaker is told when an attempt failed; never leaves this module."""


def _fail() -> None:
    raise _Failed


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one attempt. turn: which closed or half-open period it belongs to; late outcomes do not count."""

    turn: int


class Breaker:
    """One endpoint's breaker.

    failures: that many in a row open the circuit. reset_s: how long it stays open before one probe may pass.
    now: seconds of any monotonic clock, the same one in every call.
    """

    def __init__(self, failures: int = 5, reset_s: float = 10.0) -> None:
        self._machine = pybreaker.CircuitBreaker(
            fail_max=failures, reset_timeout=reset_s, throw_new_error_on_trip=False
        )
        self._reset_s = reset_s
        self._opened_at = 0.0
        self._probe_since: float | None = None
        self._turn = 0
        self._streak = 0
        self.state = pybreaker.STATE_CLOSED

    def is_available(self, now: float) -> bool:
        """Return whether `allow` would give a permit."""
        if self.state == pybreaker.STATE_CLOSED:
            return True
        if self.state == pybreaker.STATE_OPEN:
            return now - self._opened_at >= self._reset_s
        # A probe whose outcome never came (its task was cancelled) must not close the door for ever.
        return self._probe_since is None or now - self._probe_since >= self._reset_s

    def allow(self, now: float) -> Permit | None:
        """Return a permit, or None: the circuit is open, or half-open with its probe on the way."""
        if self.state == pybreaker.STATE_CLOSED:
            return Permit(self._turn)
        if not self.is_available(now):
            return None
        if self.state == pybreaker.STATE_OPEN:
            self._machine.half_open()
            self.state = pybreaker.STATE_HALF_OPEN
        self._turn += 1
        self._probe_since = now
        return Permit(self._turn)

    def succeeded(self, permit: Permit) -> None:
        if permit.turn != self._turn or self.state == pybreaker.STATE_OPEN:
            return
        self._probe_since = None
        if self._streak or self.state != pybreaker.STATE_CLOSED:
            self._machine.call(_pass)
            self._streak = 0
            self.state = self._machine.current_state

    def failed(self, permit: Permit, now: float) -> None:
        if permit.turn != self._turn or self.state == pybreaker.STATE_OPEN:
            return
        self._probe_since = None
        self._streak += 1
        try:
            self._machine.call(_fail)
        except _Failed:
            self.state = self._machine.current_state
        if self.state == pybreaker.STATE_OPEN:
            self._opened_at = now
            self._turn += 1
            self._streak = 0

    def abandoned(self, permit: Permit) -> None:
        """The attempt ended without saying anything of the endpoint (its caller gave up)."""
        if permit.turn == self._turn:
            self._probe_since = None

    def reopens_in_s(self, now: float) -> float:
        """Return the seconds until a probe may pass; 0 if one may now."""
        return max(0.0, self._opened_at + self._reset_s - now) if self.state == pybreaker.STATE_OPEN else 0.0


def _pass() -> None:
    return None
