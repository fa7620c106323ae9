"""The limit of open files, in processes of their own: it is theirs, and what is raised stays so."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession
from nexus_gateway.edge.files import FEW
from nexus_gateway.testing import until

PROGRAM = """
import logging, resource, sys
from nexus_gateway.edge import files
logging.basicConfig(format="%(levelname)s %(message)s")
before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(before, files.settle(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
needs_room = pytest.mark.skipif(HARD != resource.RLIM_INFINITY and HARD < FEW, reason=f"the hard limit is {HARD}")


def settled(soft: int, hard: int) -> tuple[list[int], str]:
    """Return the limit before, what `settle` says and both limits after it, and what is logged."""
    argv = ("prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c", PROGRAM)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    return [int(word) for word in done.stdout.split()], done.stderr


@needs_room
def test_the_limit_is_raised_to_the_hard_one_and_nothing_is_said() -> None:
    assert settled(256, FEW) == ([256, FEW, FEW, FEW], "")
    assert settled(FEW, FEW) == ([FEW, FEW, FEW, FEW], "")


def test_a_low_hard_limit_is_told_with_what_to_do() -> None:
    limits, said = settled(256, 300)
    assert limits == [256, 300, 300, 300]
    assert said.startswith("WARNING at most 300 files can be open")
    assert "LimitNOFILE=" in said


@needs_room
async def test_a_gateway_and_its_workers_have_the_hard_limit(
    tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    (tmp_path / "manifests").mkdir()
    admin = unused_tcp_port_factory()
    process = await asyncio.create_subprocess_exec(
        "prlimit", f"--nofile=1024:{FEW}", sys.executable, "-m", "nexus_cli", "gateway", "-f", str(tmp_path / "manifests"),
        "--workers", "2", "--listen", f"127.0.0.1:{unused_tcp_port_factory()}", "--admin", f"127.0.0.1:{admin}",
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    pids: list[int] = []

    async def found() -> bool:
        assert process.returncode is None, "the gateway ended"
        try:
            async with ClientSession() as client, client.get(f"http://127.0.0.1:{admin}/workers") as response:
                pids[:] = [row["pid"] for row in (await response.json())["workers"] if row["pid"]]
        except ClientConnectionError:
            return False
        return len(pids) == 2

    try:
        await until(found, 40)
        for pid in (process.pid, *pids):
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (FEW, FEW)
    finally:
        process.terminate()
        await process.wait()
