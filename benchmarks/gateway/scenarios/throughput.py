"""Closed loops that keep the proxy's core busy: repeated and varied requests, TLS, HTTP/2, gRPC, bodies.

All wanted kinds run on one start of a proxy, one after the other, and all proxies take their turn in each round: a round
of one scenario is never more than a minute away from its neighbours' round, and each round is a new start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import routes
from loads import call, h2load, wrk
from peers import nginx
from processes import TICKS_PER_S, Unusable, busy_ticks
from results import Round
from sessions import LOAD_CORE, PROXY_CORE, Session, Stage, session

from scenarios.kinds import Options

SPANS_WAIT_S = 10.0
"""Exporters send in batches, some seconds apart."""


ITEM = h2load.Asked(routes.HOST, routes.PATH, len(nginx.REPLY))
CALL = h2load.Asked(
    routes.CALLS_HOST,
    routes.CALLS_PATH,
    len(nginx.CALLED),
    b"\0\0\0\0\x08item: 7.",
    (("content-type", "application/grpc"), ("te", "trailers")),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to load a proxy. h2: over HTTP/2, which is always over TLS here."""

    path: str = routes.PATH
    tls: bool = False
    varied: bool = False
    h2: h2load.Asked | None = None
    grpc: bool = False


KINDS: Mapping[str, Kind] = {
    "repeated": Kind(),
    "varied": Kind(varied=True),
    "tls": Kind(tls=True),
    "h2-tls": Kind(tls=True, h2=ITEM),
    "grpc": Kind(tls=True, h2=CALL, grpc=True),
    "body-64k": Kind(path="/items/body/64k"),
    "body-1m": Kind(path="/items/body/1m"),
}


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield a round of each wanted kind for each proxy, proxies in turn."""
    kinds = [KINDS[name] for name in wanted]
    tls, grpc = any(kind.tls for kind in kinds), any(kind.grpc for kind in kinds)
    for _ in range(options.rounds):
        for proxy in options.proxies:
            with session(stage, proxy, tls=tls, grpc=grpc) as running:
                for kind in kinds:
                    check(running, kind)
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


def check(running: Session, kind: Kind) -> None:
    """Ask one time over HTTP/2. Raises Unusable where something else answers, or not in full."""
    if kind.h2 is None:
        return
    seen = h2load.once(running.bed.tls_port, kind.h2, cores=LOAD_CORE, work=running.stage.work)
    if seen.protocol != "h2" or seen.errors or seen.data_bytes != kind.h2.answer_bytes:
        raise Unusable(
            f"{running.peer.name} does not answer {kind.h2.path} over HTTP/2: {seen}. Its log: {running.server.log}"
        )
    if kind.grpc:
        message, failed = call.run(running.bed.tls_port, kind.h2.host, kind.h2.path, running.stage.around.certificate)
        if failed or message.decode() != nginx.MESSAGE:
            raise Unusable(
                f"{running.peer.name} does not pass gRPC calls: {failed or message!r}. Its log: {running.server.log}"
            )


def load(running: Session, kind: Kind, connections: int, seconds: float) -> wrk.Load:
    """Keep a proxy busy. connections: of HTTP/1.1; over HTTP/2 there are `h2load.CONNECTIONS`."""
    if kind.h2 is not None:
        return h2load.run(running.bed.tls_port, kind.h2, seconds=seconds, cores=LOAD_CORE, work=running.stage.work)
    return wrk.run(
        running.url(tls=kind.tls, path=kind.path),
        host=routes.HOST,
        connections=connections,
        seconds=seconds,
        cores=LOAD_CORE,
        requests=running.stage.varied if kind.varied else None,
    )


def measure(running: Session, kind: Kind, options: Options) -> Round:
    """Warm the proxy up, load it, and return the figures."""
    warm = load(running, kind, options.connections, options.warm_up_s)
    spans = running.stage.spans()
    busy, cpu_s, started = busy_ticks(int(PROXY_CORE)), running.server.cpu_s(), time.monotonic()
    seen = load(running, kind, options.connections, options.seconds)
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
