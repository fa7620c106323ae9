"""The admin API: what the gateway runs, why, and how it is. Read only, JSON, without authentication: keep it private.

It decides nothing; `State` is all it sees of the gateway. Answers as long as a Snapshot of thousands of routes are made in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from aiohttp import web
from nexus_core.match.asking import parse_question
from nexus_core.problems import Problem

from nexus_gateway.edge.collectors import MAX_EXPORT_BYTES, ExportInvalid, take_export
from nexus_gateway.edge.explaining import CLOSED, explain, show_pool
from nexus_gateway.edge.listeners.asking import Doors
from nexus_gateway.edge.listeners.shown import ListenerRow
from nexus_gateway.edge.measurements import Measurements, encode
from nexus_gateway.edge.plugins import showing
from nexus_gateway.edge.plugins.logbooks import NDJSON, Line, Logbook
from nexus_gateway.edge.pools import Pools
from nexus_gateway.edge.runtimes import Runtime
from nexus_gateway.edge.samples import Samples
from nexus_gateway.telemetry.shown import encode_shown
from nexus_gateway.telemetry.trees import TraceBook


@dataclass(frozen=True, slots=True)
class State:
    """What the admin API may look at. ready: None, or why the gateway takes no traffic. traces: None when off. zone: the
    gateway's own, empty for nowhere."""

    replica: str
    runtime: Callable[[], Runtime]
    pools: Pools
    measurements: Measurements
    problems: Callable[[], tuple[Problem, ...]]
    not_ready: Callable[[], str | None]
    traces: TraceBook | None
    samples: Samples
    logbook: Logbook
    listeners: Callable[[], tuple[ListenerRow, ...]] = tuple
    doors: Callable[[], Doors] = lambda: CLOSED
    zone: str = ""


class Admin:
    """The handlers."""

    def __init__(self, state: State) -> None:
        self._state = state

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=MAX_EXPORT_BYTES)
        app.add_routes(
            [
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/metrics", self.metrics),
                web.get("/measurements", self.measurements),
                web.get("/config", self.config),
                web.get("/listeners", self.listeners),
                web.get("/routes", self.routes),
                web.get("/endpoints", self.endpoints),
                web.get("/breakers", self.breakers),
                web.get("/plugins", self.plugins),
                web.get("/plugins/{namespace}/{name}/logs", self.logs),
                web.get("/problems", self.problems),
                web.get("/explain", self.explain),
                web.get("/samples", self.samples),
            ]
        )
        if self._state.traces is not None:
            app.add_routes(
                [
                    web.get("/traces", self.traces),
                    web.get("/traces/{trace_id}", self.trace),
                    web.post("/v1/traces", self.export),
                ]
            )
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the event loop turns."""
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 once a Snapshot is live and until draining begins."""
        why = self._state.not_ready()
        generation = self._state.runtime().published.generation
        if why is None:
            return _json({"status": "ready", "generation": generation})
        return _json({"status": "not ready", "reason": why, "generation": generation}, status=503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text format, or OpenMetrics with exemplars for a scraper that asks for it."""
        body, kind = await self._state.measurements.scrape_in_slices(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def measurements(self, request: web.Request) -> web.Response:
        """What `/metrics` is made of, as numbers: a supervisor adds up its workers'."""
        return web.Response(body=encode(self._state.measurements.state()), content_type="application/json")

    async def config(self, request: web.Request) -> web.Response:
        """The live Snapshot, with secret-looking plugin settings and header values redacted."""
        published = self._state.runtime().published

        def show() -> web.Response:
            return _json(
                {
                    "replica": self._state.replica,
                    "generation": published.generation,
                    "digest": published.digest,
                    "snapshot": msgspec.Raw(encode_shown(published.snapshot)),
                }
            )

        return await asyncio.to_thread(show)

    async def listeners(self, request: web.Request) -> web.Response:
        """Every listener: where it is open, and what is wrong with it."""
        return _json({"listeners": [asdict(row) for row in self._state.listeners()]})

    async def routes(self, request: web.Request) -> web.Response:
        """Every match with its rule, plugins and upstreams; and the routes below HTTP."""
        return await asyncio.to_thread(_show_routes, self._state.runtime())

    async def endpoints(self, request: web.Request) -> web.Response:
        """The live endpoints of each upstream."""
        return _json(
            {
                "upstreams": {
                    upstream: show_pool(pool, self._state.zone)
                    for upstream, pool in sorted(self._state.pools.all().items())
                }
            }
        )

    async def breakers(self, request: web.Request) -> web.Response:
        """The circuit of each live endpoint."""
        rows = [
            {
                "upstream": upstream,
                "endpoint": state.authority,
                "state": state.breaker.state,
                "failures": state.failures,
                "attempts": state.attempts,
                "policy": {"failures": state.breaker.policy.failures, "reset_s": state.breaker.policy.reset_s},
            }
            for upstream, pool in sorted(self._state.pools.all().items())
            for state in pool.endpoints
        ]
        return _json({"breakers": rows})

    async def plugins(self, request: web.Request) -> web.Response:
        """Each plugin instance: what is wanted, what runs, what it may do, and what it costs."""
        now = asyncio.get_running_loop().time()
        slots = [slot for _, slot in sorted(self._state.runtime().slots.items())]
        return _json({"plugins": showing.show(slots, now)})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """The last lines of a plugin as NDJSON; with `?follow=1` new ones as they come."""
        plugin = f"{request.match_info['namespace']}/{request.match_info['name']}"
        logbook = self._state.logbook
        if plugin not in self._state.runtime().slots:
            return _json({"error": f"There is no plugin {plugin}; /plugins lists them."}, status=404)
        if request.query.get("follow", "") not in ("1", "true"):
            body = b"".join(map(_line, logbook.last(plugin)))
            return web.Response(body=body, content_type=NDJSON)
        if logbook.is_full:
            return _json({"error": "Too many follow logs of plugins already. Try again when one has left."}, status=503)
        response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
        await response.prepare(request)
        async with contextlib.aclosing(logbook.follow(plugin)) as lines:
            with contextlib.suppress(ConnectionError):
                async for line in lines:
                    await response.write(_line(line))
        return response

    async def problems(self, request: web.Request) -> web.Response:
        """What is wrong with the manifests (file source) now."""
        rows = [{**asdict(problem), "where": str(problem.where)} for problem in self._state.problems()]
        return _json({"problems": rows})

    async def explain(self, request: web.Request) -> web.Response:
        """Which route a request would take and why: `?method=&url=&header=Name: value&client=ADDRESS` (header may repeat)."""
        query = request.query
        try:
            question = parse_question(
                query.get("method", "GET"), query.get("url", "/"), query.getall("header", []), query.get("client", "")
            )
        except ValueError as error:
            return _json({"error": str(error)}, status=400)
        return _json(await explain(self._state.runtime(), question, self._state.zone, self._state.doors()))

    async def samples(self, request: web.Request) -> web.Response:
        """The sample of requests that `nexus diff --replay` takes, redacted."""
        return _json({"replica": self._state.replica, **self._state.samples.show()})

    async def traces(self, request: web.Request) -> web.Response:
        """The newest traces as trees: `?limit=20`."""
        limit = request.query.get("limit", "20")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
            return _json({"error": f"limit {limit[:20]!r} is not a whole number of at most nine digits."}, status=400)
        return _json({"traces": self._book.recent(int(limit))})

    async def trace(self, request: web.Request) -> web.Response:
        """One trace by its id."""
        found = self._book.find(request.match_info["trace_id"].lower())
        if found is None:
            return _json({"error": "No such trace in memory; it may have made room for newer ones."}, status=404)
        return _json(found)

    async def export(self, request: web.Request) -> web.Response:
        """OTLP/HTTP: take spans of services. protobuf, optionally gzip."""
        if request.content_type != "application/x-protobuf":
            return _json({"error": "Send OTLP in protobuf: content-type application/x-protobuf."}, status=415)
        try:
            answer = take_export(self._book, await request.read())
        except ExportInvalid as error:
            return _json({"error": str(error)}, status=400)
        return web.Response(body=answer, content_type="application/x-protobuf")

    @property
    def _book(self) -> TraceBook:
        book = self._state.traces
        if book is None:  # pragma: no cover - the routes exist only with a book
            raise web.HTTPNotFound
        return book


def _show_routes(runtime: Runtime) -> web.Response:
    rows = (
        _ENCODER.encode(
            {
                "route": entry.route.id,
                "rule": entry.rule.id,
                "hostnames": entry.route.hostnames,
                "listeners": entry.route.listeners,
                "path": entry.match.path,
                "path_kind": entry.match.path_kind,
                "method": entry.match.method,
                "headers": {header.name: header.value for header in entry.match.headers},
                "plugins": entry.rule.plugins,
                "upstreams": [{"upstream": each.upstream, "weight": each.weight} for each in entry.rule.backends],
            }
        )
        for entry in runtime.router.entries
    )
    streams = [
        {
            "route": plan.route.id,
            "hostnames": plan.route.hostnames,
            "listeners": plan.route.listeners,
            "upstreams": [{"upstream": each.upstream, "weight": each.weight} for each in plan.route.backends],
        }
        for plan in runtime.streams.all()
    ]
    return _json({"routes": msgspec.Raw(b"[%s]" % b",".join(rows)), "streams": streams})


# Not `json`: with an indent that one writes in Python, token by token, and holds 20 MB for the Snapshot of 5,000 routes meanwhile.
_ENCODER = msgspec.json.Encoder(enc_hook=str)


def _line(line: Line | None) -> bytes:
    return _ENCODER.encode(line) + b"\n" if line is not None else b"\n"


def _json(value: Any, *, status: int = 200) -> web.Response:
    body = msgspec.json.format(_ENCODER.encode(value), indent=2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")
