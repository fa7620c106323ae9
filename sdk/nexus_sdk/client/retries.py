"""Which requests may be tried again, how often and when. Pure: `now` and `rng` are handed in."""

from __future__ import annotations

import random
from collections import deque

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2, without TRACE."""

RETRIED_STATUS = frozenset({502, 503, 504})
"""Answers of something in the way, or of a peer that asks for another try; 500 is the peer's bug and stays one."""


class RetryBudget:
    """Bounds retries to a share of the recent requests, so that a failing peer does not get a multiple of its load.

    percent: retries per 100 requests of the window. floor: retries allowed in any window, so that a quiet service may
    retry at all. window_s: what counts as recent. Source: "Handling Overload", Site Reliability Engineering, 2016.
    """

    def __init__(self, percent: float = 20.0, floor: int = 3, window_s: float = 10.0) -> None:
        self._percent, self._floor, self._window_s = percent, floor, window_s
        self._slots: deque[list[float]] = deque()  # [start, requests, retries], one per tenth of the window

    def _slot(self, now: float) -> list[float]:
        while self._slots and now - self._slots[0][0] > self._window_s:
            self._slots.popleft()
        if not self._slots or now - self._slots[-1][0] >= self._window_s / 10:
            self._slots.append([now, 0.0, 0.0])
        return self._slots[-1]

    def note_request(self, now: float) -> None:
        self._slot(now)[1] += 1

    def take_retry(self, now: float) -> bool:
        """Return whether one more retry is within the budget, and count it."""
        slot = self._slot(now)
        requests, retries = sum(s[1] for s in self._slots), sum(s[2] for s in self._slots)
        if retries + 1 > max(self._floor, requests * self._percent / 100):
            return False
        slot[2] += 1
        return True


def wait_s(retry: int, rng: random.Random, *, base_s: float = 0.025, cap_s: float = 1.0) -> float:
    """Return the wait before the n-th retry (1, 2, …): full jitter over a doubling ceiling.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rng.random() * min(cap_s, base_s * 2.0 ** (retry - 1))


def parse_retry_after(text: str | None) -> float | None:
    """Return the seconds of a `retry-after` header; None for none and for a date, which a retry will not wait for."""
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 9 else None
