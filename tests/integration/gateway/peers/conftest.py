"""Both event loops run these tests: what happens when a socket breaks differs between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop


@pytest.fixture(autouse=True)
def strict(loop_errors: list[dict[str, Any]]) -> None:
    """No test may leave an error to the loop."""


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
