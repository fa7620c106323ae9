"""The generic cell rate algorithm: a limit in one number per key. Pure; times are seconds of whatever clock the caller has.

The number is the key's theoretical arrival time: when it would be idle again if it asked for nothing more. A request moves it on by its
cost; it may not be further ahead of now than the burst. Nothing has to be counted down, and there are no windows to begin at once.
Source: ITU-T I.371; Brandur Leach, "Rate Limiting, Cells, and GCRA", 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """requests of cost 1 in window_s, evenly spaced; as many as burst at once."""

    name: str
    requests: int
    window_s: float
    burst: int

    @property
    def interval_s(self) -> float:
        """Between two requests of cost 1, when the burst is used up."""
        return self.window_s / self.requests

    def share(self, workers: int) -> Limit:
        """Return what one of several workers may let pass on its own. Never less than a burst of 1."""
        if workers <= 1:
            return self
        return Limit(self.name, self.requests, self.window_s * workers, max(1, self.burst // workers))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands. ahead_s: of now, its theoretical arrival time. wait_s: until the request may pass, 0 when it does now."""

    limit: Limit
    ahead_s: float
    wait_s: float = 0.0

    @property
    def remaining(self) -> int:
        """Requests of cost 1 that may pass now."""
        # What divides evenly must not come out below by an error in the last place.
        return max(0, math.floor(self.limit.burst - self.ahead_s / self.limit.interval_s + 1e-6))

    @property
    def reset_s(self) -> int:
        """Until the whole burst is there again, rounded up."""
        return math.ceil(max(0.0, self.ahead_s))


def ask(limit: Limit, arrival: float, now: float, cost: int) -> Standing:
    """Return where a key stands after a request of that cost; when it has to wait, where it stands without the request.

    arrival: the key's theoretical arrival time, anything before now for a key that is not known. cost: at most the burst.
    """
    ahead = max(arrival - now, 0.0)
    after = ahead + limit.interval_s * cost
    over = after - limit.interval_s * limit.burst
    if over > 1e-9 * max(1.0, after):
        return Standing(limit, ahead, over)
    return Standing(limit, after)
