"""`fault`: trouble on purpose, drawn for each request."""

from __future__ import annotations

import random

from nexus_core.snapshot import Fault


class FaultDraw:
    """Decides which requests are delayed, and which are answered with a status. The two are drawn independently."""

    __slots__ = ("_policy", "_random")

    def __init__(self, policy: Fault, rng: random.Random) -> None:
        self._policy = policy
        self._random = rng.random

    def decide(self) -> tuple[float, int]:
        """Return `(seconds to wait, status to answer with then)` for one request; zeros for none of it. Cost: ~150 ns."""
        policy = self._policy
        # `random()` is below 1: a ratio of 1 always strikes, one of 0 never does.
        delay_s = policy.delay_s if policy.delay_s and self._random() < policy.delay_ratio else 0.0
        status = policy.abort_status if policy.abort_ratio and self._random() < policy.abort_ratio else 0
        return delay_s, status
