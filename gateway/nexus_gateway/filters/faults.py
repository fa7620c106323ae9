from __future__ import annotations
import random
from nexus_core.snapshot import Fault
class FaultDraw:
    def __init__(self, policy: Fault, rng: random.Random) -> None:
        self.p = policy; self.r = rng
    def decide(self) -> tuple[float, int]:
        return (self.p.delay_s if self.r.random() < self.p.delay_ratio else 0.0, self.p.abort_status if self.r.random() < self.p.abort_ratio else 0)
