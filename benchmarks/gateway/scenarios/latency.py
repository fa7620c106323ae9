"""Latency at 70 % of each proxy's own capacity, in an open loop that counts the wait in line."""

from __future__ import annotations

from collections.abc import Iterator

import routes
from loads import pace, wrk
from results import Round
from sessions import LOAD_CORE, Session, Stage, session

from scenarios.kinds import Options

LOAD_RATIO = 0.7
_SETTLE_S = 1.0


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield a round for each proxy, in turn: its capacity as wrk finds it, then latencies at the share of it."""
    for _ in range(options.rounds):
        for proxy in options.proxies:
            with session(stage, proxy) as running:
                capacity = find_capacity(running, options)
                seen = open_loop(running, options, capacity * LOAD_RATIO, 2 * options.seconds + _SETTLE_S)
                figures = seen.percentiles_ms(after_s=_SETTLE_S)
                for name in wanted:
                    yield (
                        name,
                        {
                            "proxy": proxy,
                            "capacity_per_s": capacity,
                            "rate_per_s": capacity * LOAD_RATIO,
                            **figures,
                            "errors": seen.failed,
                        },
                    )


def find_capacity(running: Session, options: Options) -> float:
    """Return the requests a second of a closed loop, after a warm-up."""

    def load(seconds: float) -> wrk.Load:
        return wrk.run(
            running.url(), host=routes.HOST, connections=options.connections, seconds=seconds, cores=LOAD_CORE
        )

    load(options.warm_up_s)
    return load(options.seconds).requests_per_s


def open_loop(running: Session, options: Options, rate_per_s: float, seconds: float) -> pace.Paced:
    """Send the repeated request at a rate."""
    return pace.run(
        running.stage.pace,
        running.bed.port,
        connections=options.connections,
        rate_per_s=rate_per_s,
        seconds=seconds,
        cores=LOAD_CORE,
        requests=running.stage.repeated,
    )
