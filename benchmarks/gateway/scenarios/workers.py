"""Whether two workers cost more CPU per request than one. Nothing is pinned: proxy, backend and load share both cores."""

from __future__ import annotations

from collections.abc import Iterator

import routes
from loads import wrk
from results import Round
from sessions import LOAD_CORE, PROXY_CORE, Stage, session

from scenarios.kinds import Options

CONNECTIONS = 256
"""Enough that the kernel deals them evenly over two listening sockets."""


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield a round for each proxy: CPU per request with one worker and with two."""
    both = f"{PROXY_CORE},{LOAD_CORE}"
    for _ in range(options.rounds):
        for proxy in options.proxies:
            cost: dict[int, float] = {}
            speed: dict[int, float] = {}
            errors = 0
            for workers in (1, 2):
                with session(stage, proxy, workers=workers, cores=both) as running:

                    def load(seconds: float) -> wrk.Load:
                        return wrk.run(
                            running.url(), host=routes.HOST, connections=CONNECTIONS, seconds=seconds, cores=both
                        )

                    warm = load(options.warm_up_s)
                    before = running.server.cpu_s()
                    seen = load(2 * options.seconds)
                    cost[workers] = (running.server.cpu_s() - before) / max(seen.requests, 1) * 1e6
                    speed[workers] = seen.requests_per_s
                    errors += warm.errors + seen.errors
            for name in wanted:
                yield (
                    name,
                    {
                        "proxy": proxy,
                        "one_cpu_us": cost[1],
                        "two_cpu_us": cost[2],
                        "cpu_times": cost[2] / cost[1],
                        "one_requests_per_s": speed[1],
                        "two_requests_per_s": speed[2],
                        "errors": errors,
                    },
                )
