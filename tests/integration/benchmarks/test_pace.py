"""The open-loop generator is believed only as far as it is checked: against a server whose delays are known."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "gateway"
STALL_S = 0.3


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    if shutil.which("cc") is None:
        pytest.skip("a C compiler builds the generator")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("loads.pace")
    for name in ("loads", "loads.pace", "processes"):
        sys.modules.pop(name, None)


@asynccontextmanager
async def server(*, stall_at: int = -1, status: str = "200 OK", close_at: int = -1) -> Any:
    """Answer requests on loopback. stall_at: number of the request for which the whole server stands still."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                served += 1
                if served == close_at:
                    break
                if served == stall_at:
                    time.sleep(STALL_S)  # noqa: ASYNC251 - the loop itself stands still, as after a blocking call in a proxy
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok".encode())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def run(pace: ModuleType, port: int, tmp_path: Path, **wanted: Any) -> Any:
    requests = tmp_path / "requests"
    requests.write_bytes(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\0GET /b HTTP/1.1\r\nHost: b\r\n\r\n")
    settings = {"connections": 4, "rate_per_s": 400.0, "seconds": 1.0, "cores": "0", "requests": requests, **wanted}
    return await asyncio.to_thread(pace.run, pace.program(tmp_path), port, **settings)


async def test_every_request_is_sent_when_due_and_answered(pace: ModuleType, tmp_path: Path) -> None:
    async with server() as port:
        seen = await run(pace, port, tmp_path)
    assert seen.failed == 0
    assert len(seen.latency_us) == 400
    assert max(seen.due_us) == pytest.approx(997_500, abs=2)


async def test_a_stall_is_charged_to_all_requests_that_were_due_meanwhile(pace: ModuleType, tmp_path: Path) -> None:
    """A closed loop of four connections would have charged it to four requests at most.

    Bounds are from below, where a generator or a server that has to wait for its core can only add to a wait.
    """
    async with server(stall_at=100) as port:
        seen = await run(pace, port, tmp_path)
    assert seen.failed == 0
    stall_us = STALL_S * 1e6
    assert max(seen.latency_us) >= stall_us
    # The hundredth is served after 99 others, so not before the last of those was due; by then no more than four others
    # were sent. All from 103 on (counted from 0) are answered after the stall, and 120 are due in the course of it.
    requests = sorted(zip(seen.due_us, seen.latency_us, strict=True))
    over_us = requests[98][0] + stall_us
    meanwhile = requests[103:215]
    assert all(latency >= over_us - due - 2 > 0 for due, latency in meanwhile)  # 2: both are whole microseconds
    # The later it was due the less it waited. Not so of one before which the generator or the server lost its core.
    falling = sum(later < earlier for (_, earlier), (_, later) in pairwise(meanwhile))
    assert falling > len(meanwhile) / 2


async def test_other_statuses_and_broken_connections_are_failures(pace: ModuleType, tmp_path: Path) -> None:
    async with server(status="503 Service Unavailable") as port:
        assert (await run(pace, port, tmp_path)).failed == 400
    async with server(close_at=50) as port:
        seen = await run(pace, port, tmp_path)
    assert seen.failed == 1
    assert len(seen.latency_us) == 399
