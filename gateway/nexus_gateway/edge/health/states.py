"""What probes say of one endpoint, and when the next one is due. Pure: outcomes, chance and time are handed in.

| known | healthy | good probe | failed probe |
|---|---|---|---|
| no | as it was | healthy at once | unhealthy after `unhealthy` in a row |
| yes | yes | stays | unhealthy after `unhealthy` in a row |
| yes | no | healthy after `healthy` in a row | stays |

Nothing is known of a new endpoint, and of every one after its check changed: what was said before holds until the new check
has said its own. An endpoint of which nothing was ever known takes requests, so that a gateway without verdicts serves.
"""

from __future__ import annotations

import random

from nexus_core.snapshot import HealthCheck

SPREAD_S = 0.01
"""First probes of many endpoints are spread so that they begin this far apart on average, over one interval at most."""
_SHORTEST_S = 0.05


class ProbeState:
    """One endpoint of one upstream.

    known: whether this check has said something. healthy: the last verdict. good, failed: probes in a row, one of the two is 0.
    detail: of the last failed probe, empty after a good one.
    """

    __slots__ = ("detail", "failed", "good", "healthy", "known")

    def __init__(self, healthy: bool = True) -> None:
        """healthy: what holds until there is a verdict."""
        self.known = False
        self.healthy = healthy
        self.good = 0
        self.failed = 0
        self.detail = ""

    def record(self, good: bool, policy: HealthCheck, detail: str = "") -> bool:
        """Take one probe's outcome. Return whether the verdict changed."""
        before = self.healthy
        if good:
            self.good += 1
            self.failed = 0
            self.detail = ""
            if not self.known or self.good >= policy.healthy:
                self.known = self.healthy = True
        else:
            self.failed += 1
            self.good = 0
            self.detail = detail
            if self.failed >= policy.unhealthy:
                self.known = True
                self.healthy = False
        return self.healthy is not before

    def begin_anew(self) -> None:
        """The check changed: keep the verdict until there is a new one."""
        self.known = False
        self.good = self.failed = 0
        self.detail = ""


def first_at(now: float, policy: HealthCheck, count: int, rng: random.Random) -> float:
    """Return when an endpoint is probed for the first time. count: of endpoints that begin together, one or more."""
    return now + rng.random() * min(policy.interval_s, count * SPREAD_S)


def next_at(now: float, policy: HealthCheck, rng: random.Random, *, known: bool) -> float:
    """Return when the next probe is due. now: when the last one began, so that slow answers do not stretch the interval.

    While nothing is known, pauses are shorter: a first verdict comes within about one interval, whichever it is.
    """
    pause_s = policy.interval_s if known else policy.interval_s / max(policy.unhealthy, 1)
    jittered = pause_s * (1.0 + policy.jitter_ratio * (2.0 * rng.random() - 1.0))
    return now + max(jittered, _SHORTEST_S)
