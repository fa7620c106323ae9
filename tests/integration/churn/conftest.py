"""The world of the churn suite: one for all its tests, because starting it takes longer than most steps."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent.parent))  # `import churn`

from nexus_testbed import components

from churn.world import World, making


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Consul, a gateway and three replicas."""
    async with making(tmp_path_factory.mktemp("churn"), components.ensure(["consul"])["consul"]) as made:
        yield made
