"""docs/tutorials/first-journey.md runs as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
TUTORIAL = REPOSITORY / "docs" / "tutorials" / "first-journey.md"
BLOCK = re.compile(r"^```sh\n(?P<command>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.timeout(180)


def blocks() -> list[tuple[str, str]]:
    return [(match["command"], match["output"] or "") for match in BLOCK.finditer(TUTORIAL.read_text())]


def matches(wanted: str, got: str) -> bool:
    """Whether each line of `wanted` is in `got`, in this order, `…` being anything and columns of any width."""
    at = 0
    for line in wanted.splitlines():
        words = (r"\s+".join(map(re.escape, part.split())) for part in line.split("…"))
        pattern = r".*?".join(words)
        found = re.compile(pattern).search(got, at)
        if found is None:
            return False
        at = found.end()
    return True


def test_the_tutorial_runs_as_it_is_written(shop: Any, wait_for: Callable[..., Any], tmp_path: Path) -> None:
    """With this test's ports, directory and processes in the place of the reader's."""
    replaced = {
        "make tour": f".venv/bin/nexus tour --gateway {shop.gateway} -f examples/shop",
        "http://127.0.0.1:8080": shop.gateway,
        "examples/shop": str(shop.directory),
        ".venv/bin/nexus": f"{sys.executable} -m nexus_cli",
        "pkill -9 -o -f 'shop_catalog$'": f"kill -9 {shop.pid_listening_for('catalog')}",
    }
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        **{f"NEXUS_{command}_ADMIN": shop.admin for command in ("TRACES", "EXPLAIN", "TOUR", "PLUGIN_LIST")},
    }
    ran = 0
    for command, output in blocks():
        if command.strip() == "make run":
            continue  # the fixture did
        text = command
        for was, becomes in replaced.items():
            text = text.replace(was, becomes)
        said = ""

        def run(text: str = text, output: str = output) -> bool:
            nonlocal said
            done = subprocess.run(
                ["bash", "-c", text],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=tmp_path,
                env=environment,
                check=False,
            )
            said = done.stdout + done.stderr
            assert done.returncode == 0, f"{text}\n{said}"
            assert matches(output, done.stdout), f"{text}\nwanted:\n{output}\ngot:\n{said}"
            return True

        # A reader types slower than a plugin loads or a span arrives; a test does not.
        wait_for(run, command, 15)
        ran += 1
    assert ran >= 12, "the tutorial's blocks were found"
