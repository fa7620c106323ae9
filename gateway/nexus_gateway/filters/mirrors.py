from __future__ import annotations
from nexus_core.snapshot import Mirror
class MirrorDraw:
    def __init__(self, policy: Mirror) -> None:
        self.c = 0.0; self.p = policy
    def next(self) -> bool:
        self.c += self.p.ratio
        if self.c >= 1.0 - 1e-9:
            self.c -= 1.0
            return True
        return False
