"""Long computations on the event loop, in slices with pauses that belong to requests.

Not in a thread: whoever waits for the interpreter waits for its switch interval, and uvloop gives the interpreter back and takes
it again around each callback, so that a thread that computes adds that interval to every read and write of every request. A slice
is over after a known time, and in between requests have everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

SLICE_S = 0.0005
"""How long requests wait for a slice at most, but for the step that ends it."""
PAUSE_S = 0.002
"""Between slices: a fifth of the time is for the computation, so that a busy gateway stays ahead of its requests."""

START_SLICE_S = 0.005
"""While nobody is served yet; with no pause."""


async def run_in_slices(work: Generator[None, None, T], slice_s: float = SLICE_S, pause_s: float = PAUSE_S) -> T:
    """Run a generator that yields often, and return what it returns. pause_s: 0 lets what is ready run, and goes on."""
    try:
        while True:
            ends_at = perf_counter() + slice_s
            while perf_counter() < ends_at:
                next(work)
            await asyncio.sleep(pause_s)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        work.close()
