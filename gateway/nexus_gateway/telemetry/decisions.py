"""Which finished requests are logged and which are recorded as spans. Pure; asked once per request, at its end."""

from __future__ import annotations

from collections.abc import Callable

LOG = 1
"""Write the access log's line."""
TRACE = 2
"""Record the spans."""

BROKEN_OFF = frozenset({"ClientClosed", "UpstreamReset", "BodyTimeout"})
"""Reasons that say a request or its response was cut short, whatever status had gone out. Any other reason beside a status
below 400 says so too: the gateway refuses with more."""


class Decisions:
    """Head sampling was decided when the request came (its lines say so); here its end has a say as well.

    Recorded besides the sampled: requests that ended in 500 or more, were broken off, took more than one attempt, or were
    slow. Logged always: the same, and what the gateway refused.
    """

    __slots__ = ("_log", "_log_ratio", "_random", "_slow_s", "_trace")

    def __init__(self, *, log: bool, log_ratio: float, trace: bool, slow_s: float, random: Callable[[], float]) -> None:
        """log, trace: whether there is a log, and anything that takes spans. slow_s: from how many seconds on a request is
        slow; 0 for never. random: uniform in [0, 1)."""
        self._log = LOG if log else 0
        self._log_ratio = log_ratio
        self._trace = TRACE if trace else 0
        self._slow_s = slow_s or float("inf")
        self._random = random

    def end(self, lines: bytes, status: int, seconds: float, attempts: int, reason: str) -> int:
        """Return `LOG | TRACE`, either, or 0.

        lines: of `Contexts.start`; empty for a request that was refused before it had any. status: 0 for none.
        reason: why the gateway answered itself or broke off; empty otherwise.
        """
        if status < 500 and seconds < self._slow_s and attempts < 2 and not reason:
            wanted = self._log
            if wanted and self._log_ratio < 1.0 and self._random() >= self._log_ratio:
                wanted = 0
            # The flags' last digit: `contexts.is_sampled`, without the call.
            return wanted | self._trace if lines and lines[67] == 49 else wanted
        if not lines:
            return self._log
        if status >= 500 or status < 400 or attempts > 1 or seconds >= self._slow_s or reason in BROKEN_OFF:
            return self._log | self._trace
        return self._log | self._trace if lines[67] == 49 else self._log
