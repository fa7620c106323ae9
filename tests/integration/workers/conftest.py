"""A supervisor of stub workers."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_gateway.edge.workers.supervisor import Plan, Supervisor

STUB = Path(__file__).parent / "stub.py"
Supervised = Callable[..., Awaitable[Supervisor]]


@pytest.fixture
async def supervised() -> AsyncIterator[Supervised]:
    """Start a supervisor of stubs: `await supervised(workers=2, trouble="")`. trouble: of STUB_TROUBLE, or by place."""
    made: list[Supervisor] = []

    async def start(
        workers: int = 2, trouble: str = "", environ: dict[str, str] | None = None, **plan: Any
    ) -> Supervisor:
        values: dict[str, Any] = {"drain_s": 5.0, "boot_s": 20.0, **plan}
        own = {**os.environ, **(environ or {})}
        supervisor = Supervisor(
            Plan(
                command=(sys.executable, str(STUB)),
                environ=lambda index: {**own, "STUB_TROUBLE": trouble},
                workers=workers, plain=("127.0.0.1", 0), **values,
            )
        )  # fmt: skip
        made.append(supervisor)
        await supervisor.start()
        return supervisor

    yield start
    for supervisor in made:
        await supervisor.abort()
