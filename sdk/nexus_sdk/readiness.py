"""Readiness: named checks, each bounded in time, run together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

Check = Callable[[], Awaitable[object]]

CHECK_S = 2.0
"""Bound of one check: below the probe timeouts of the chart, so that the answer says which check it was."""


class Readiness:
    """The checks of one app; a check that raises makes the app not ready."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        self._checks[name] = check

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._checks))

    async def find_failures(self) -> Mapping[str, str]:
        """Run all checks and return why each failing one failed, by name; empty when the app is ready."""
        names = self.names
        answers = await asyncio.gather(*(self._run(self._checks[name]) for name in names))
        return {name: why for name, why in zip(names, answers, strict=True) if why}

    @staticmethod
    async def _run(check: Check) -> str:
        limit = asyncio.timeout(CHECK_S)
        try:
            async with limit:
                await check()
        except Exception as error:
            if limit.expired():
                return f"no answer within {CHECK_S:g} s"
            return f"{error or type(error).__name__}"[:500]
        return ""
