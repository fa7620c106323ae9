"""Resident memory with 5,000 routes: after the start, and while a great many requests pass. Repeated and varied in turn."""

from __future__ import annotations

from collections.abc import Iterator

import routes
from loads import wrk
from processes import Unusable
from results import Round
from sessions import LOAD_CORE, Stage, session

from scenarios.kinds import Options

_CHUNK_S = 5
_SETTLED_RATIO = 0.2
"""Caches and pools fill with the first requests; growth is counted from here on."""


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield one round for each proxy: memory does not depend on turns, and a soak is long."""
    for proxy in options.proxies:
        with session(stage, proxy) as running:
            running.server.settle()
            start_mb = running.server.rss_bytes() / 1e6
            series: list[tuple[int, float]] = []
            done, errors, turn = 0, 0, 0
            while done < options.soak:
                varied = turn % 2 == 1
                seen = wrk.run(
                    running.url(),
                    host=routes.HOST,
                    connections=options.connections,
                    seconds=min(_CHUNK_S, 2 * options.seconds),
                    cores=LOAD_CORE,
                    requests=stage.varied if varied else None,
                )
                if not seen.requests:
                    raise Unusable(f"{proxy} stopped answering after {done} requests")
                done, errors, turn = done + seen.requests, errors + seen.errors, turn + 1
                series.append((done, running.server.rss_bytes() / 1e6))
            settled = next(mb for at, mb in series if at >= done * _SETTLED_RATIO)
            for name in wanted:
                yield (
                    name,
                    {
                        "proxy": proxy,
                        "start_mb": start_mb,
                        "settled_mb": settled,
                        "end_mb": series[-1][1],
                        "highest_mb": max(mb for _, mb in series),
                        "growth_mb": series[-1][1] - settled,
                        "requests": done,
                        "errors": errors,
                    },
                )
