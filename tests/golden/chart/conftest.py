"""The helm program, as the cluster tests build it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))

from nexus_testbed import components  # noqa: E402 - after the line above

CHART = REPOSITORY / "charts" / "nexus"
KUBERNETES = ("--kube-version", "1.36.0")

Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Return a function that runs helm and gives back what it printed; it does not raise for a failing helm."""
    program = components.ensure(["helm"])["helm"]

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), *args], capture_output=True, text=True, timeout=60, check=False)

    return run
