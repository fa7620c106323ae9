"""The circuit breaker of an endpoint or of a whole service. Circuit open = requests refused.

The states and their transitions are pybreaker's; this module hands it our clock, keeps its counts in cells, which all
workers share, and mirrors its state into plain attributes, because a call through the library costs 0.7 µs and the hot
path asks on every attempt. pybreaker is told of failures, of the successes that matter (after a failure, or of a probe)
and of the end of the open time. The error ratio is ours (pybreaker counts consecutive failures alone); it opens pybreaker's circuit.

What workers agree on, and how exactly:
- Consecutive failures are counted together; a success in any worker that is `watching` sets the count back. A worker
  begins to watch at its next `mirror` (when `Cells.changes` moved: within a tick), so an opening can miss the successes that other
  workers saw within that tick. Failures at the same instant in two workers may count as one.
- An opening is seen by all within a tick, and by a worker whose next attempt fails at once.
- Probes: at most `probes` run in all workers together; two workers that take the last place within the same 100 ns both get it.
- A worker killed with a probe on its way takes the place with it: places fall free `reset_s` after the last one was taken.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nexus_core.snapshot import CircuitBreaker as BreakerPolicy

from nexus_gateway.resilience import windows
from nexus_gateway.resilience.cells import Cells, Slot, private

# pybreaker imports redis where that is installed, for circuits that are kept there, as ours are not: 9 MB, cryptography among them.
# None in its place is as good as not installed.
_hides_redis = sys.modules.setdefault("redis", None) is None  # type: ignore[arg-type]
try:
    import pybreaker
finally:
    if _hides_redis:
        del sys.modules["redis"]

CLOSED = "closed"  # requests pass; failures are counted
OPEN = "open"  # requests are refused until `reopens_at`
HALF_OPEN = "half-open"  # a few probes pass; as many successes close the circuit, one failure opens it

_STATES = (CLOSED, OPEN, HALF_OPEN)
_CODES = {state: float(code) for code, state in enumerate(_STATES)}

_STATE, _FAILURES, _SUCCESSES, _OPENED_AT, _PROBES, _PROBED_AT = range(6)
SIZE = 8


class _AttemptFailed(Exception):
    """Carries "the attempt failed" into pybreaker."""


class _Listener(pybreaker.CircuitBreakerListener):
    """Copies each transition into the attributes of our breaker."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self._breaker._entered(new_state.name)


class _Storage(pybreaker.CircuitBreakerStorage):
    """pybreaker's state and counts, in cells.

    noticing: set while pybreaker catches up with a transition that another worker made; the counts it would reset on the
    way are that worker's to reset.
    """

    def __init__(self, slot: Slot) -> None:
        super().__init__("cells")
        self.slot = slot
        self.noticing = False

    @property
    def state(self) -> str:
        return _STATES[int(self.slot.view[self.slot.at + _STATE])]

    @state.setter
    def state(self, state: str) -> None:
        self.slot.view[self.slot.at + _STATE] = _CODES[state]

    @property
    def counter(self) -> int:
        return int(self.slot.view[self.slot.at + _FAILURES])

    def increment_counter(self) -> None:
        self.slot.view[self.slot.at + _FAILURES] += 1.0

    def reset_counter(self) -> None:
        if not self.noticing:
            self.slot.view[self.slot.at + _FAILURES] = 0.0

    @property
    def success_counter(self) -> int:
        return int(self.slot.view[self.slot.at + _SUCCESSES])

    def increment_success_counter(self) -> None:
        self.slot.view[self.slot.at + _SUCCESSES] += 1.0

    def reset_success_counter(self) -> None:
        if not self.noticing:
            self.slot.view[self.slot.at + _SUCCESSES] = 0.0

    @property
    def opened_at(self) -> datetime | None:
        """Unused: the open time runs on our clock. A far day keeps pybreaker from ending it by its own."""
        return datetime(9000, 1, 1, tzinfo=UTC)

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        """Ignored, see above; `Breaker` writes the monotonic second."""


class Breaker:
    """Counts failures of one endpoint or service and refuses requests for a while after too many.

    state: `closed`, `open` or `half-open`, the very constants of this module (compare with `is`).
    watching: whether `success` has anything to do; the hot path skips the call when False.
    opened_at, reopens_at: monotonic seconds of the last opening, and when it lets probes through; say nothing while closed.
    """

    __slots__ = (
        "__weakref__",
        "_cells",
        "_key",
        "_machine",
        "_now",
        "_on_change",
        "_passed",
        "_passed_until",
        "_slot",
        "_storage",
        "_window",
        "opened_at",
        "policy",
        "reopens_at",
        "state",
        "watching",
    )  # fmt: skip

    def __init__(
        self,
        policy: BreakerPolicy,
        on_change: Callable[[str], None] | None = None,
        cells: Cells | None = None,
        key: str = "",
        now: float = 0.0,
    ) -> None:
        """on_change: called with the new state at each transition, in every worker, for metrics and logs.

        cells, key: where the state is shared; None keeps it to this object.
        """
        self.policy = policy
        self.state = CLOSED
        self.opened_at = 0.0
        self.reopens_at = 0.0
        self.watching = False
        self._now = now
        self._on_change = on_change
        self._cells = cells
        self._key = key
        self._slot = private(SIZE) if cells is None else cells.slot(f"breaker/{key}", SIZE, now)
        self._storage = _Storage(self._slot)
        self._machine = pybreaker.CircuitBreaker(
            listeners=[_Listener(self)], state_storage=self._storage, throw_new_error_on_trip=False
        )
        self._window: tuple[windows.Window, Slot] | None = None
        self._passed = 0
        self._passed_until = 0.0
        self.apply(policy, now)
        if self._machine.current_state != CLOSED:
            self._entered(self._machine.current_state, noticed=True)

    def apply(self, policy: BreakerPolicy, now: float = 0.0) -> None:
        """Take over a changed policy; state and counts stay, save those of an error window of another length."""
        before, self.policy = self.policy, policy
        self._machine.fail_max = policy.failures or sys.maxsize
        self._machine.success_threshold = max(1, policy.probes)
        if not policy.error_ratio:
            self._window = None
        elif self._window is None or before.window_s != policy.window_s:
            key, size = f"window/{self._key}/{policy.window_s}", windows.SIZE
            slot = private(size) if self._cells is None else self._cells.slot(key, size, now)
            self._window = (windows.Window(slot, policy.window_s), slot)
        self.reopens_at = self.opened_at + policy.reset_s
        self._watch()

    def slots(self) -> tuple[Slot, ...]:
        """Return the slots in use, for `Cells.touch`."""
        return (self._slot,) if self._window is None else (self._slot, self._window[1])

    def would_allow(self, now: float) -> bool:
        """Return whether `acquire` would let a request pass, without taking a probe's place."""
        if self.state is CLOSED:
            return True
        if self.state is OPEN:
            return now >= self.reopens_at
        return self._places(now) > 0

    def acquire(self, now: float) -> bool:
        """Return whether a request may pass; it then owes one `success`, `failure` or `abandon`.

        It is a probe when `state` is `half-open` afterwards; hand that back as `probe=`.
        """
        if self.state is CLOSED:
            return True
        self.mirror(now)
        if not self.would_allow(now):
            return False
        if self.state is CLOSED:
            return True
        self._now = now
        if self.state is OPEN:
            self._machine.half_open()
        view, at = self._slot.view, self._slot.at
        view[at + _PROBES] = max(1, self.policy.probes) - self._places(now) + 1
        view[at + _PROBED_AT] = now
        return True

    def _places(self, now: float) -> int:
        view, at = self._slot.view, self._slot.at
        allowed = max(1, self.policy.probes)
        if now >= view[at + _PROBED_AT] + self.policy.reset_s:
            return allowed
        return allowed - int(view[at + _PROBES])

    def success(self, now: float, *, probe: bool = False) -> None:
        """Count an attempt that was answered well. probe: whether it was let through a half-open circuit."""
        if not self.watching:
            return
        if self.state is CLOSED:
            if self._window is not None:
                self._passed += 1
                if now >= self._passed_until:
                    self._flush(now)
            if not self._slot.view[self._slot.at + _FAILURES]:
                self.watching = self._window is not None
                return
        self.mirror(now)
        if self._is_late(probe):
            return
        if self.state is HALF_OPEN:
            self._give_back()
        self._tell(_nothing)

    def failure(self, now: float, *, probe: bool = False) -> None:
        """Count an attempt that failed: connect error, reset, timeout, 502, 503 or 504. probe: as for `success`."""
        self.mirror(now)
        if self._is_late(probe):
            return
        if self.state is HALF_OPEN:
            self._give_back()
        first = not self.watching
        self._tell(_fail)
        self._weigh(now)
        self._watch()
        if first and self.state is CLOSED and self._cells is not None:
            self._cells.mark()  # so that successes elsewhere set the count back

    def relapse(self, now: float, began_at: float) -> None:
        """Count the failure of a probe that had counted as a success: its answer began well, and ended with an error.

        began_at: when it was let through. For `reset_s` from then, what it brought about is taken back: the circuit opens again. An
        answer that went on for longer was one, and its failure counts like any attempt's.
        """
        self.mirror(now)
        if self.state is OPEN or self.opened_at > began_at:
            return  # opened again meanwhile, by others that know more
        if now >= began_at + self.policy.reset_s:
            self.failure(now)
        elif self.state is HALF_OPEN:
            self._tell(_fail)
        else:
            self._machine.open()

    def abandon(self, *, probe: bool = False) -> None:
        """Give an acquired pass back without a verdict: the client left before the answer. probe: as for `success`."""
        if self.state is HALF_OPEN and probe:
            self._give_back()

    def mirror(self, now: float) -> bool:
        """Take over what other workers did, and return whether the state is another now.

        Called for every breaker when `Cells.changes` moved, and here before each decision off the hot path.
        """
        self._now = now
        before = self.state
        view, at = self._slot.view, self._slot.at
        if view[at + _OPENED_AT] != self.opened_at:
            # Opened once more: a probe elsewhere may fail so fast that nobody here saw the circuit half-open in between.
            self.opened_at = view[at + _OPENED_AT]
            self.reopens_at = self.opened_at + self.policy.reset_s
        # Compared here as well, because pybreaker takes 1 µs to see that nothing changed.
        if _STATES[int(view[at + _STATE])] is not before:
            self._storage.noticing = True
            try:
                _ = self._machine.state
            finally:
                self._storage.noticing = False
        self._watch()
        return self.state is not before

    def _tell(self, outcome: Callable[[], None]) -> None:
        """Run an outcome through pybreaker, which counts it."""
        # Our own exception comes back once the failure is counted. The library's own means that another worker opened the
        # circuit since `mirror` looked: this attempt was a late one.
        with contextlib.suppress(_AttemptFailed, pybreaker.CircuitBreakerError):
            self._machine.call(outcome)
        self._watch()

    def _weigh(self, now: float) -> None:
        """Open the circuit when the error ratio is too high. Failures of a half-open circuit are pybreaker's matter."""
        if self._window is None or self.state is not CLOSED:
            return
        self._passed += 1
        self._flush(now, failures=1)
        requests, failures = self._window[0].counts(now)
        if requests >= self.policy.min_requests and failures >= self.policy.error_ratio * requests:
            self._machine.open()

    def _flush(self, now: float, failures: int = 0) -> None:
        """Bring the requests counted here since the last time to the shared window: on failures, and once for each part."""
        if self._window is not None:
            self._window[0].add(self._passed, failures, now)
        self._passed = 0
        self._passed_until = now + self.policy.window_s / windows.PARTS

    def _entered(self, state: str, *, noticed: bool = False) -> None:
        """Mirror a transition; called by pybreaker's listener."""
        view, at = self._slot.view, self._slot.at
        noticed = noticed or self._storage.noticing
        self.state = _STATES[int(_CODES[state])]
        if self.state is OPEN and not noticed:
            view[at + _OPENED_AT] = self._now
        if not noticed:
            view[at + _PROBES] = view[at + _PROBED_AT] = 0.0
            if self._window is not None and self.state is CLOSED:
                self._window[0].clear()
        self._passed = 0
        self.opened_at = view[at + _OPENED_AT]
        self.reopens_at = self.opened_at + self.policy.reset_s
        self._watch()
        if self._on_change is not None:
            self._on_change(self.state)
        if not noticed and self._cells is not None:
            # pybreaker stores the state after its listeners ran; others must not look before it is there.
            self._storage.state = state
            self._cells.mark()

    def _watch(self) -> None:
        self.watching = (
            self.state is not CLOSED or self._window is not None or self._slot.view[self._slot.at + _FAILURES] > 0.0
        )

    def _give_back(self) -> None:
        view, at = self._slot.view, self._slot.at + _PROBES
        view[at] = max(0.0, view[at] - 1.0)
        if self._cells is not None:
            self._cells.mark()  # a place is free: whoever left this endpoint out may take it in again

    def _is_late(self, probe: bool) -> bool:
        """Return whether an attempt began before the circuit opened: it says nothing about the endpoint now, and in a
        half-open circuit the places and the verdict are the probes' alone."""
        return self.state is OPEN or (self.state is HALF_OPEN and not probe)

    @property
    def failing(self) -> bool:
        """Whether something is amiss: not closed, or failures in a row."""
        return self.state is not CLOSED or self._slot.view[self._slot.at + _FAILURES] > 0.0


def _nothing() -> None:
    return None


def _fail() -> None:
    raise _AttemptFailed
