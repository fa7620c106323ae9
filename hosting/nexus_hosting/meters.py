"""What one version of a plugin costs, and whether it may go on: counted on the hot path, judged over a sliding window.

A state machine with the time handed in, for gateways and services alike; timers are theirs. Deliberately not here: what a closed
plugin means for requests, which is its failure policy's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from nexus_core.snapshot import Budgets, PluginReport

from nexus_hosting.spreads import Spread

BOUNDS = (
    0.000001, 0.000002, 0.000005, 0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
    0.2, 0.5, 1.0, 5.0,
)  # fmt: skip
"""Of the durations of calls, seconds: a header hook takes 1 µs, a call to another service 10 ms."""
LATELY_S = 30.0
"""What "lately" means in `PluginStats`."""
REASON = "PluginDisabled"
"""Of the report of a plugin that went beyond a budget."""
TRY_CALLS = 5
"""Calls that decide whether a plugin that was disabled goes on."""
_STEPS = 10
_MAX_TEXT = 300
_MB = 2**20


class State(Enum):
    """Whether a plugin is called."""

    RUNNING = "running"  # it is
    DISABLED = "disabled"  # it went beyond a budget: it is not
    TRYING = "trying"  # it is again: the next few calls decide


class Budget(Enum):
    """What can be exceeded."""

    ERRORS = "errors"
    CPU = "cpu"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Excess:
    """What was exceeded, by how much, as a sentence; and from when on it is tried again, monotonic."""

    budget: Budget
    message: str
    until: float


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted up to a moment. buckets: of all hooks' durations, by `BOUNDS`."""

    at: float
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    buckets: tuple[int, ...] = ()


class Meter:
    """One version of a plugin in one process.

    The hot path adds to it with each call that ended, failed ones too, by its duration in the `Spread` of its hook alone: how many there
    were, and how long they took, is read from these. waited_s: of their time, what they did not hold the event loop for. `failed` then, if
    it failed. open: whether it is called.
    last: of the failures, where it was and what it said.
    cost_bytes: what it held when that was last looked at, 0 when it was not. failing: called after each failure;
    a trial's. changed: called when `open` or `state` has.
    """

    __slots__ = (
        "_fresh_at", "_recent", "_samples", "_step_s", "_tried", "budgets", "changed", "cost_bytes", "errors", "excess", "failing",
        "last", "open", "spreads", "state", "waited_s",
    )  # fmt: skip

    def __init__(
        self,
        budgets: Budgets,
        now: float = 0.0,
        former: Meter | None = None,
    ) -> None:
        """now: monotonic. former: of the same version, whose counts go on."""
        self.budgets = budgets
        self.errors: int = former.errors if former is not None else 0
        self.waited_s: float = former.waited_s if former is not None else 0.0
        self.spreads: dict[str, Spread] = former.spreads if former is not None else {}
        self.state = State.RUNNING
        self.open = True
        self.excess: Excess | None = None
        self.cost_bytes = 0
        self.last: str = former.last if former is not None else ""
        self.failing: Callable[[], None] | None = None
        self.changed: Callable[[], None] | None = None
        self._step_s = budgets.window_s / _STEPS
        # Of the window, and of what is shown: they may be of very different lengths.
        self._samples: deque[Counts] = deque()
        self._recent: deque[Counts] = deque()
        self._start(now)

    # ---- counting

    @property
    def calls(self) -> int:
        """Calls that ended."""
        return sum(sum(spread.buckets) for spread in self.spreads.values())

    @property
    def seconds(self) -> float:
        """That they took."""
        return sum(spread.sum for spread in self.spreads.values())

    @property
    def cpu_s(self) -> float:
        """That they held the event loop."""
        return max(self.seconds - self.waited_s, 0.0)

    def count(self, hook: str, took_s: float, held_s: float) -> None:
        """Count a call. held_s: of its time, what it held the event loop for."""
        self.spread(hook).observe(took_s)
        self.waited_s += took_s - held_s

    def spread(self, hook: str) -> Spread:
        """Return the durations of a hook, the same object each time."""
        found = self.spreads.get(hook)
        if found is None:
            found = self.spreads[hook] = Spread(BOUNDS)
        return found

    def settle(self) -> None:
        """Count what came since somebody looked last. Call it several times a second under load: the more came, the longer it takes."""
        for spread in self.spreads.values():
            spread.settle()

    def counts(self, now: float) -> Counts:
        """Return what was counted until now."""
        rows = [spread.buckets for spread in self.spreads.values()]
        buckets = tuple(map(sum, zip(*rows, strict=True))) if rows else ()
        return Counts(now, self.calls, self.errors, self.seconds, self.cpu_s, buckets)

    def lately(self, now: float) -> tuple[Counts, Counts]:
        """Return what was counted until `LATELY_S` ago, or since the first word, and until now."""
        return _before(self._recent, now - LATELY_S), self.counts(now)

    # ---- judging

    def failed(self, now: float, where: str, text: str) -> None:
        """Count the failure of a call that `calls` has; one too many closes the plugin at once.

        where: the hook. text: what it said, without secrets.
        """
        self.errors += 1
        self.last = f"{where}: {text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + '…'}"
        if self.failing is not None:
            self.failing()
        if self.state is not State.DISABLED:  # else of a call that had begun before
            excess = self._too_many_errors(now)
            if excess is not None:
                self._close(excess)

    def tick(self, now: float) -> None:
        """Judge what time alone brings. Call it several times in a window, also without traffic."""
        if now - self._recent[-1].at >= LATELY_S / _STEPS:
            _keep(self._recent, self.counts(now), LATELY_S)
        if self.state is State.DISABLED:
            assert self.excess is not None
            if now >= self.excess.until:
                self.state, self.open = State.TRYING, True
                self._start(now)
                self._tell()
            return
        excess = self._too_many_errors(now) or self._too_much_cpu(now) or self._too_much_memory(now)
        if excess is not None:
            self._close(excess)
            return
        if self.state is State.TRYING and (
            self.calls - self._tried >= TRY_CALLS or now - self._fresh_at >= self.budgets.window_s
        ):
            # It did what it should, or nobody asked it to for a while.
            self.state, self.excess = State.RUNNING, None
            self._tell()
        if now - self._samples[-1].at >= self._step_s:
            _keep(self._samples, self._totals(now), self.budgets.window_s)

    def _totals(self, now: float) -> Counts:
        return Counts(now, self.calls, self.errors, self.seconds, self.cpu_s)

    def _start(self, now: float) -> None:
        """Judge what comes from now on, and nothing of before."""
        self._samples.append(self._totals(now))
        if not self._recent:
            self._recent.append(self.counts(now))
        self._fresh_at = now
        self._tried = self.calls

    def _window(self, now: float) -> Counts:
        return _before(self._samples, max(now - self.budgets.window_s, self._fresh_at))

    def _too_many_errors(self, now: float) -> Excess | None:
        budgets = self.budgets
        trying = self.state is State.TRYING
        before = self._window(now)
        calls, errors = self.calls - before.calls, self.errors - before.errors
        if calls < (min(TRY_CALLS, budgets.min_calls) if trying else budgets.min_calls):
            return None
        percent = 100.0 * errors / calls
        if percent <= budgets.error_percent:
            return None
        when = "since it was tried again" if trying else f"within {_round(budgets.window_s)} s"
        return Excess(
            Budget.ERRORS,
            f"{errors} of its {calls} calls failed {when} ({_round(percent)} %); "
            f"its budget is {_round(budgets.error_percent)} %. The last: {self.last.rstrip('.')}.",
            now + budgets.disabled_s,
        )

    def _too_much_cpu(self, now: float) -> Excess | None:
        budgets = self.budgets
        if not budgets.cpu_percent:
            return None
        before = self._window(now)
        if self.calls - before.calls < budgets.min_calls:
            return None
        # Of a whole window, also while less of one is over: a short burst is no excess.
        percent = 100.0 * (self.cpu_s - before.cpu_s) / max(budgets.window_s, now - before.at)
        if percent <= budgets.cpu_percent:
            return None
        return Excess(
            Budget.CPU,
            f"It held the event loop for {_round(percent)} % of {_round(budgets.window_s)} s; "
            f"its budget is {_round(budgets.cpu_percent)} % of one core.",
            now + budgets.disabled_s,
        )

    def _too_much_memory(self, now: float) -> Excess | None:
        budgets = self.budgets
        if not budgets.memory_mb or self.cost_bytes <= budgets.memory_mb * _MB:
            return None
        return Excess(
            Budget.MEMORY,
            f"It holds {_round(self.cost_bytes / _MB)} MB; its budget is {budgets.memory_mb} MB.",
            now + budgets.disabled_s,
        )

    def _close(self, excess: Excess) -> None:
        self.state, self.open, self.excess = State.DISABLED, False, excess
        self._tell()

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()


def _keep(samples: deque[Counts], newest: Counts, seconds: float) -> None:
    """Add to samples, and let go of those that are older than what is needed to look back so far."""
    samples.append(newest)
    while len(samples) > 1 and samples[1].at <= newest.at - seconds:
        samples.popleft()


def _before(samples: deque[Counts], at: float) -> Counts:
    """Return the last counts of that moment or earlier; the first ones there are, else."""
    found = samples[0]
    for each in samples:
        if each.at > at:
            break
        found = each
    return found


def disabled_report(meter: Meter, version: str, now: float, now_utc: datetime) -> PluginReport | None:
    """Return what there is to say of a plugin that is disabled, or tried again; None of one that goes on as it should.

    version: of the release that runs. now, now_utc: the same moment, monotonic and as people read it.
    """
    excess = meter.excess
    if meter.state is State.RUNNING or excess is None:
        return None
    until = f"{now_utc + timedelta(seconds=excess.until - now):%H:%M:%S} UTC"
    then = (
        f"It is not called until {until}; then it is tried again."
        if meter.state is State.DISABLED
        else f"It has been tried again since {until}, and its next calls decide."
    )
    return PluginReport("disabled", version, REASON, f"{excess.message} {then}")


def _round(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
