"""Closed loops that keep the proxy's core busy: repeated and varied requests, TLS, bodies.

All wanted kinds run on one start of a proxy, one after the other, and all proxies take their turn in each round: a round
of one scenario is never more than a minute away from its neighbours' round, and each round is a new start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import routes
from loads import wrk
from processes import TICKS_PER_S, Unusable, busy_ticks
from results import Round
from sessions import LOAD_CORE, PROXY_CORE, Session, Stage, session

from scenarios.kinds import Options

SPANS_WAIT_S = 10.0
"""Exporters send in batches, some seconds apart."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to load a proxy."""

    path: str = routes.PATH
    tls: bool = False
    varied: bool = False


KINDS: Mapping[str, Kind] = {
    "repeated": Kind(),
    "varied": Kind(varied=True),
    "tls": Kind(tls=True),
    "body-64k": Kind(path="/items/body/64k"),
    "body-1m": Kind(path="/items/body/1m"),
}


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield a round of each wanted kind for each proxy, proxies in turn."""
    tls = any(KINDS[name].tls for name in wanted)
    for _ in range(options.rounds):
        for proxy in options.proxies:
            with session(stage, proxy, tls=tls) as running:
                before = sum(stage.spans().values())
                for name in wanted:
                    yield name, measure(running, KINDS[name], options)
                if running.peer.full:
                    _await_spans(stage, proxy, before)


def _await_spans(stage: Stage, proxy: str, before: int) -> None:
    """Return once the collector has spans of this load. Raises Unusable when none come: tracing was not really on."""
    deadline = time.monotonic() + SPANS_WAIT_S
    while sum(stage.spans().values()) == before:
        if time.monotonic() > deadline:
            raise Unusable(f"{proxy} exported no span")
        time.sleep(0.1)


def measure(running: Session, kind: Kind, options: Options) -> Round:
    """Warm the proxy up, load it, and return the figures."""
    url = running.url(tls=kind.tls, path=kind.path)
    requests = running.stage.varied if kind.varied else None

    def load(seconds: float) -> wrk.Load:
        return wrk.run(
            url,
            host=routes.HOST,
            connections=options.connections,
            seconds=seconds,
            cores=LOAD_CORE,
            requests=requests,
        )

    warm = load(options.warm_up_s)
    spans = running.stage.spans()
    busy, cpu_s, started = busy_ticks(int(PROXY_CORE)), running.server.cpu_s(), time.monotonic()
    seen = load(options.seconds)
    cpu_s, wall_s = running.server.cpu_s() - cpu_s, time.monotonic() - started
    others_s = (busy_ticks(int(PROXY_CORE)) - busy) / TICKS_PER_S - cpu_s
    return {
        "proxy": running.peer.name,
        "cpu_us": cpu_s / max(seen.requests, 1) * 1e6,
        "requests_per_s": seen.requests_per_s,
        "mb_per_s": seen.bytes_per_s / 1e6,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "rss_mb": running.server.rss_bytes() / 1e6,
        # Of the time that wrk loaded: reading its file of requests comes before that.
        "busy_ratio": cpu_s / max(seen.requests, 1) * seen.requests_per_s,
        "others_ratio": round(max(others_s, 0.0) / wall_s, 3),
        "spans": sum(running.stage.spans().values()) - sum(spans.values()),
        "requests": seen.requests,
        "errors": warm.errors + seen.errors,
    }
