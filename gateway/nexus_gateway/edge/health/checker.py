from __future__ import annotations
from typing import Any
class Checker:
    def __init__(self, *a: Any, **k: Any) -> None:
        self.active = True
    def follow(self, upstreams: Any) -> None: ...
    async def close(self) -> None: ...
