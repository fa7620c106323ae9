"""What a scenario is, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from results import Round
from sessions import Stage


@dataclass(frozen=True, slots=True)
class Options:
    """How long and with whom. seconds: of one measurement. warm_up_s: of load before it. soak: requests of the memory scenario."""

    proxies: tuple[str, ...]
    rounds: int
    seconds: float
    warm_up_s: float
    connections: int
    soak: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """proxies: that take part unless the user names others. columns: figures of the table, in order. rounds: likewise unless
    the user says otherwise.

    run: yields (scenario name, round); one run may serve several scenarios that share the start of a proxy.
    """

    name: str
    asks: str
    proxies: tuple[str, ...]
    columns: tuple[str, ...]
    run: Callable[[Stage, Options, tuple[str, ...]], Iterator[tuple[str, Round]]]
    rounds: int = 5
