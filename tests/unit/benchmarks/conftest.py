"""The benchmarks are programs, not a package: their modules are found beside them, for these tests alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
_NAMES = (
    "control.figures", "control.pure", "control.worlds",
    "messages", "results", "report", "routes", "processes", "loads", "loads.h2load", "loads.pace", "loads.wrk", "peers", "peers.beds",
)  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules, by the last part of their names."""
    for folder in (BENCHMARKS, BENCHMARKS / "gateway"):
        monkeypatch.syspath_prepend(str(folder))
    found: dict[str, ModuleType] = {name.rpartition(".")[2]: importlib.import_module(name) for name in _NAMES}
    yield SimpleNamespace(**found)
    for name in _NAMES:
        sys.modules.pop(name, None)
