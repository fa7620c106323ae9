"""Who runs on which cores: what is measured on the first half of them, what makes the churn on the others.

Starting a Python process, a Consul that replays its log, an operator that publishes: on one machine they take the processors from
requests, which in earnest they do not share. With a core of their own what is left in the figures is what the gateway does about them.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from pathlib import Path


class Cores:
    """The two halves. On a machine with one core both are that one.

    serving: for load, gateways and replicas that take requests. rest: for everything else, and for what is being started.
    """

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        ordered = sorted(self._all)
        half = len(ordered) // 2
        self.serving = frozenset(ordered[:half] or ordered)
        self.rest = frozenset(ordered[half:])

    def leave(self) -> None:
        """Move this process to the rest; what it starts begins there."""
        move(os.getpid(), self.rest)

    def restore(self) -> None:
        """Put this process back to where it was."""
        move(os.getpid(), self._all)

    def put(self, pid: int, *, serves: bool = True) -> None:
        """Let a process, with all its threads and children, run where requests are served, or where the rest is."""
        move(pid, self.serving if serves else self.rest)
        for child in _children(pid):
            self.put(child, serves=serves)

    def free(self, pid: int) -> None:
        """Let a process run wherever there is room: it serves still, and is about to end, which takes a while of its own."""
        move(pid, self._all)


def move(pid: int, cores: AbstractSet[int]) -> None:
    """Let all threads of a process run on these cores. A process or thread that has ended is none of them."""
    for thread in _threads(pid):
        try:
            os.sched_setaffinity(thread, cores)
        except ProcessLookupError:
            continue


def _threads(pid: int) -> list[int]:
    try:
        return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in _threads(pid):
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except FileNotFoundError:
            continue
    return found
