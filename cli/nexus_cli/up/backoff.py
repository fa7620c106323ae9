"""When a process that ended is started again. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST_S, LONGEST_S = 0.2, 30.0
STABLE_S = 30.0
"""A process that ran this long begins anew with the shortest pause."""
LOOP_AFTER = 4
"""Quick ends in a row after which it is shown as a crash loop."""


@dataclass(slots=True)
class Backoff:
    """Pauses of one replica: doubled after each quick end, jittered down to half so that replicas do not march in step."""

    rng: random.Random
    quick_ends: int = 0

    def ended(self, ran_s: float) -> float:
        """Return the seconds to wait before the next start of a process that ran for `ran_s`."""
        self.quick_ends = 0 if ran_s >= STABLE_S else self.quick_ends + 1
        pause_s = min(LONGEST_S, FIRST_S * 2.0 ** max(0, min(self.quick_ends - 1, 20)))
        return pause_s * (0.5 + self.rng.random() / 2)

    @property
    def is_loop(self) -> bool:
        return self.quick_ends >= LOOP_AFTER
