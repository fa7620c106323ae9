"""Response times of an endpoint as `peak-ewma` sees them: quick to believe that it got slower, slow to forget."""

from __future__ import annotations

from math import exp
from typing import Protocol

TAU_S = 10.0
"""Time constant of forgetting: after so many seconds without an answer, a response time counts for 37 %. Finagle's default."""

FRESH_S = 0.1
"""Below a hundredth of `TAU_S` the fading is less than 1 % and not worth an exp."""

FAILED_S = 1.0
"""What a failed attempt counts at least, see `observe_failure`."""


class Timed(Protocol):
    """What is kept of an endpoint. ewma_s: seconds, 0.0 while nothing was measured. ewma_at: monotonic seconds."""

    ewma_s: float
    ewma_at: float


def observe(state: Timed, seconds: float, now: float) -> None:
    """Take in the response time of an attempt that was answered, at its end.

    A slower one than the average counts in full at once (the peak); a faster one by how much time has passed.
    Source: Finagle's `PeakEwma` load metric (twitter/finagle, `finagle-core` `PeakEwma.scala`), also linkerd2-proxy's and tower's.
    """
    elapsed = now - state.ewma_at
    kept = exp(-elapsed / TAU_S) if elapsed > 0.0 else 1.0
    decayed = state.ewma_s * kept
    state.ewma_s = seconds if seconds > decayed else decayed + seconds * (1.0 - kept)
    state.ewma_at = now


def observe_failure(state: Timed, seconds: float, now: float) -> None:
    """Take in an attempt that failed: at least `FAILED_S`, or an endpoint that fails fast would look like the fastest."""
    observe(state, max(FAILED_S, seconds), now)


def latency(state: Timed, now: float) -> float:
    """Return the smoothed response time as of now, in seconds: it fades while nothing is measured, so that an endpoint
    that was slow is tried again."""
    elapsed = now - state.ewma_at
    return state.ewma_s if elapsed < FRESH_S else state.ewma_s * exp(-elapsed / TAU_S)
