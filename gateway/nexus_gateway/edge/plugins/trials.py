"""A candidate beside the version that runs: which requests it gets, and when it has proved itself or is given up.

The decision is `judge`, on numbers alone; `Trial` counts and deals. Timers, reports and stopping the candidate are `overseeing`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Literal

from nexus_core.snapshot import Candidate, CandidateReport

from nexus_gateway.balance.split import Split

if TYPE_CHECKING:
    from nexus_gateway.edge.plugins.meters import Counts
    from nexus_gateway.edge.plugins.slots import Slot

REASON = "PluginRolledBack"
_WHOLE = 10_000
"""Percents are dealt exactly to a hundredth."""
_CHANCE = 1.64
"""Standard deviations that a difference of 5xx has to have: backends answer some of them whatever the plugin does, and one in twenty
of these differences would come about with equal versions. A plugin's own failures need no such doubt."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one version did during the trial. calls, errors, seconds: of hooks. requests, failures: answered, and those with 5xx.

    last: of the errors, where it was and what it said.
    """

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    requests: int = 0
    failures: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a trial. message: why it was refused, as sentences."""

    state: Literal["passed", "refused"]
    message: str = ""


def judge(stable: Seen, candidate: Seen, terms: Candidate, elapsed_s: float) -> Verdict | None:
    """Return the verdict on a candidate, None while there is none.

    terms: whose limits count; its `instance` is not looked at. elapsed_s: since the trial began.
    """
    why = _worse(stable, candidate, terms)
    if why:
        return Verdict("refused", why)
    if elapsed_s < terms.seconds:
        return None
    if candidate.calls < terms.min_calls and 2 * candidate.errors > candidate.calls:
        # Too few for shares; but this is no proof.
        return Verdict("refused", f"{candidate.errors} of its {candidate.calls} calls failed.{_last(candidate)}")
    return Verdict("passed")


def _worse(stable: Seen, candidate: Seen, terms: Candidate) -> str:
    """Return in what the candidate is worse than it may be; empty for nothing."""
    if candidate.calls >= terms.min_calls:
        if candidate.calls and candidate.errors == candidate.calls:
            return f"All of its {candidate.calls} calls failed.{_last(candidate)}"
        failed, before = _percent(candidate.errors, candidate.calls), _percent(stable.errors, stable.calls)
        if candidate.errors and failed - before >= terms.error_percent:
            return (
                f"{_round(failed)} % of its {candidate.calls} calls failed, and {_round(before)} % of the running version's "
                f"{stable.calls}; the difference may be less than {_round(terms.error_percent)} points.{_last(candidate)}"
            )
        if stable.calls:
            took_ms = 1000 * (candidate.seconds / candidate.calls - stable.seconds / stable.calls)
            if took_ms >= terms.latency_ms:
                return (
                    f"Its calls took {_ms(candidate)} on average, and the running version's {_ms(stable)}; the difference may be "
                    f"less than {_round(terms.latency_ms)} ms."
                )
    if candidate.requests >= terms.min_calls:
        failed, before = _percent(candidate.failures, candidate.requests), _percent(stable.failures, stable.requests)
        if candidate.failures and failed - before >= terms.error_percent and _is_no_chance(stable, candidate):
            return (
                f"{_round(failed)} % of its {candidate.requests} requests were answered with 5xx, and {_round(before)} % of the "
                f"running version's {stable.requests}; the difference may be less than {_round(terms.error_percent)} points."
            )
    return ""


def _is_no_chance(stable: Seen, candidate: Seen) -> bool:
    """Return whether equal versions would seldom differ so much in 5xx (the pooled two-proportion z-test)."""
    if not stable.requests:
        return True  # nothing to compare with
    pooled = (stable.failures + candidate.failures) / (stable.requests + candidate.requests)
    deviation = sqrt(pooled * (1 - pooled) * (1 / stable.requests + 1 / candidate.requests))
    difference = candidate.failures / candidate.requests - stable.failures / stable.requests
    return difference >= _CHANCE * deviation


class Trial:
    """One candidate of one slot.

    An exchange that meets the stable slot takes `turn()` in its place and stays with it, and tells `ended` when it is over, once.
    in_flight: exchanges that are with the candidate now. report: for the acknowledgement.
    """

    __slots__ = (
        "_base", "_begun", "_changed", "_former", "_holds", "_since", "_split", "_stable_failures", "_stable_requests", "candidate",
        "failures", "in_flight", "report", "requests", "stable", "terms",
    )  # fmt: skip

    def __init__(
        self, stable: Slot, candidate: Slot, terms: Candidate, now: float, changed: Callable[[Trial], None]
    ) -> None:
        """now: monotonic. changed: told of the verdict, and of the last exchange of a candidate that was refused."""
        self.stable = stable
        self.candidate = candidate
        self.terms = terms
        self.report = CandidateReport(terms.instance.release.version, "running")
        self.in_flight = 0
        self.requests = self.failures = 0
        self._stable_requests = self._stable_failures = 0
        self._changed = changed
        self._former: Trial | None = None
        self._since = now
        self._begun = False
        self._holds = 0
        self._base = (stable.meter.counts(now), candidate.meter.counts(now))
        share = min(max(round(terms.percent * 100), 0), _WHOLE)
        self._split = Split((_WHOLE - share, share))

    def begin(self, now: float) -> None:
        """Count the time from here on: requests may come. Once; it goes on from one Snapshot to the next."""
        self._former = None
        self.candidate.meter.failing = self._failed
        if not self._begun:
            self._begun = True
            self._since = now
            self._base = (self.stable.meter.counts(now), self.candidate.meter.counts(now))

    def go_on_from(self, former: Trial) -> None:
        """Take over what the same trial of former slots has seen; its exchanges end there. Before `begin`."""
        self._begun, self._since, self._base = former._begun, former._since, former._base
        self.requests, self.failures = former.requests, former.failures
        self._stable_requests, self._stable_failures = former._stable_requests, former._stable_failures
        self.report = former.report
        self._former = former

    @property
    def is_over(self) -> bool:
        """Whether the candidate was refused and nothing is with it any more: it can be stopped."""
        return self.report.state == "refused" and not self.in_flight

    def turn(self) -> Slot:
        """Return the slot of the next exchange: the stable one, or the candidate's."""
        if self.report.state == "refused" or not self._split.next():
            return self.stable
        self.in_flight += 1
        return self.candidate

    def ended(self, slot: Slot, status: int, seconds: float) -> None:
        """Count an exchange that is over. slot: what `turn` gave it. status: 0 for none. seconds: that it took."""
        if slot is not self.candidate:
            self._stable_requests += 1
            self._stable_failures += status >= 500
            return
        self.in_flight -= 1
        self.requests += 1
        if status >= 500:
            self.failures += 1
        if self.is_over:
            self._changed(self)
        elif status >= 500:
            self.look(None)

    def look(self, now: float | None) -> None:
        """Judge. now: None when something failed, which ends a trial early and passes none."""
        if self.report.state != "running":
            return
        stable, candidate = self.seen()
        verdict = judge(stable, candidate, self.terms, -1.0 if now is None else now - self._since)
        if verdict is not None:
            self._settle(verdict)

    def refuse(self, message: str) -> None:
        """Give the candidate up, whatever the shares: it went beyond a budget."""
        if self.report.state != "refused":
            self._settle(Verdict("refused", message))

    def seen(self) -> tuple[Seen, Seen]:
        """Return what the stable version and the candidate did so far."""
        stable, candidate = self._base
        return (
            _since(self.stable, stable, self._stable_requests, self._stable_failures),
            _since(self.candidate, candidate, self.requests, self.failures),
        )

    # ---- whose candidate it is

    def hold(self) -> None:
        """Count a runtime in whose requests may be with the candidate. Its first one goes live now, after the former trial."""
        if self._former is not None:
            # Until now that one went on, and others may have taken long to load: a candidate that it gave up meanwhile has been stopped.
            self.report = self._former.report
        if self.candidate.running is not None and not self.is_over:
            self.candidate.running.acquire()
            self._holds += 1

    async def release(self) -> None:
        """Count a runtime out; without any the candidate stops."""
        if self._holds and self.candidate.running is not None:
            self._holds -= 1
            await self.candidate.running.release()

    async def stop(self) -> None:
        """Let the candidate go, whatever holds it; for one that is over."""
        while self._holds:
            await self.release()

    def _failed(self) -> None:
        self.look(None)

    def _settle(self, verdict: Verdict) -> None:
        if verdict.state == "passed":
            self.report = replace_report(self.report, "passed")
        else:
            running = self.stable.report.version or "none"
            message = f"{verdict.message} All requests are with version {running} again."
            self.report = replace_report(self.report, "refused", REASON, message)
        self._changed(self)


def replace_report(
    report: CandidateReport, state: Literal["passed", "refused"], reason: str = "", message: str = ""
) -> CandidateReport:
    """Return a report of the same version with a last word."""
    return CandidateReport(report.version, state, reason, message)


def _since(slot: Slot, base: Counts, requests: int, failures: int) -> Seen:
    meter = slot.meter
    calls, errors, seconds = meter.calls - base.calls, meter.errors - base.errors, meter.seconds - base.seconds
    return Seen(calls, errors, seconds, requests, failures, meter.last if errors else "")


def _last(seen: Seen) -> str:
    return f" The last: {seen.last.rstrip('.')}." if seen.last else ""


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0


def _ms(seen: Seen) -> str:
    return f"{_round(1000 * seen.seconds / seen.calls)} ms"


def _round(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
