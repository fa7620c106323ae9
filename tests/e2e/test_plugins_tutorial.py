"""docs/tutorials/plugins-and-the-marketplace.md runs as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.walking import Walk

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorials" / "plugins-and-the-marketplace.md"
PORTS = ("8080", "8081", "9000", "9001")


@pytest.mark.timeout(300)
def test_the_tutorial_runs_as_it_says(tmp_path: Path, free_ports: Callable[[int], list[str]]) -> None:
    (tmp_path / "background.log").touch()
    walk = Walk(tmp_path, dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    try:
        walk.walk(PAGE)
    finally:
        walk.stop()
    assert walk.ran == 12
    assert walk.key
