"""The admin API: what the gateway runs, why, and how it is. Read only, JSON, without authentication: keep it private.

It decides nothing; `State` is all it sees of the gateway.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from aiohttp import web
from nexus_core.match import hosts, paths
from nexus_core.match.explain import explain
from nexus_core.problems import Problem
from nexus_core.snapshot import HeaderModifier

from nexus_gateway.edge.collectors import MAX_EXPORT_BYTES, ExportInvalid, take_export
from nexus_gateway.edge.measurements import Measurements, encode
from nexus_gateway.edge.pools import Pool, Pools
from nexus_gateway.edge.runtimes import Runtime
from nexus_gateway.telemetry.records import REDACTED, is_secret
from nexus_gateway.telemetry.trees import TraceBook

_HEADER_FILTER = msgspec.inspect.type_info(HeaderModifier).tag  # type: ignore[attr-defined]  # of a tagged Struct


@dataclass(frozen=True, slots=True)
class State:
    """What the admin API may look at. ready: None, or why the gateway takes no traffic. traces: None when off."""

    replica: str
    runtime: Callable[[], Runtime]
    pools: Pools
    measurements: Measurements
    problems: Callable[[], tuple[Problem, ...]]
    not_ready: Callable[[], str | None]
    traces: TraceBook | None


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
                web.get("/routes", self.routes),
                web.get("/endpoints", self.endpoints),
                web.get("/breakers", self.breakers),
                web.get("/plugins", self.plugins),
                web.get("/problems", self.problems),
                web.get("/explain", self.explain),
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
        snapshot = _without_header_values(msgspec.to_builtins(published.snapshot))
        for plugin in snapshot.get("plugins", ()):
            plugin["config"] = _redacted(json.loads(plugin.get("config", "{}")))
        return _json(
            {
                "replica": self._state.replica,
                "generation": published.generation,
                "digest": published.digest,
                "snapshot": snapshot,
            }
        )

    async def routes(self, request: web.Request) -> web.Response:
        """Every match with its rule, plugins and upstreams."""
        rows = [
            {
                "route": entry.route.id,
                "rule": entry.rule.id,
                "hostnames": list(entry.route.hostnames),
                "listeners": list(entry.route.listeners),
                "path": entry.match.path,
                "path_kind": entry.match.path_kind,
                "method": entry.match.method,
                "headers": {header.name: header.value for header in entry.match.headers},
                "plugins": list(entry.rule.plugins),
                "upstreams": [{"upstream": each.upstream, "weight": each.weight} for each in entry.rule.backends],
            }
            for entry in self._state.runtime().router.entries
        ]
        return _json({"routes": rows})

    async def endpoints(self, request: web.Request) -> web.Response:
        """The live endpoints of each upstream."""
        return _json(
            {"upstreams": {upstream: _pool(pool) for upstream, pool in sorted(self._state.pools.all().items())}}
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
        """Each plugin instance: what is wanted, what runs."""
        rows = [
            {
                "id": slot.instance.id,
                "plugin": slot.instance.release.name,
                "version": slot.instance.release.version,
                "order": slot.instance.order,
                "failure_policy": slot.instance.failure_policy,
                "state": slot.report.state,
                "running_version": slot.report.version,
                "reason": slot.report.reason,
                "message": slot.report.message,
            }
            for _, slot in sorted(self._state.runtime().slots.items())
        ]
        return _json({"plugins": rows})

    async def problems(self, request: web.Request) -> web.Response:
        """What is wrong with the manifests (file source) now."""
        rows = [{**asdict(problem), "where": str(problem.where)} for problem in self._state.problems()]
        return _json({"problems": rows})

    async def explain(self, request: web.Request) -> web.Response:
        """Which route a request would take and why: `?method=&url=&header=Name: value` (header may repeat)."""
        query = request.query
        method = query.get("method", "GET").upper()
        headers: dict[str, str] = {}
        for line in query.getall("header", []):
            name, colon, value = line.partition(":")
            if not colon:
                return _json({"error": f"header {line!r} is not 'Name: value'."}, status=400)
            key = name.strip().lower()
            headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
        try:
            host, path = _split_url(query.get("url", "/"), headers.get("host", ""))
        except ValueError as error:
            return _json({"error": str(error)}, status=400)
        return _json(self._explained(method, host, path, headers))

    def _explained(self, method: str, host: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
        runtime = self._state.runtime()
        found = explain(runtime.router, method, host, path, headers)
        entry = runtime.router.find(method, host, path, headers)
        answer: dict[str, Any] = {
            "request": {"method": method, "host": host, "path": path},
            "generation": runtime.published.generation,
            "route": found.route,
            "rule": found.rule,
            "why": found.why,
            "plugins": [],
            "upstreams": [],
            "others": [asdict(loser) for loser in found.losers],
        }
        if entry is None:
            return answer
        answer["plugins"] = [
            {"id": slot.instance.id, "state": slot.report.state, "version": slot.report.version}
            for slot in entry.payload.plugins
        ]
        answer["filters"] = _without_header_values(msgspec.to_builtins(entry.rule.filters))
        for weighted, backend in zip(entry.rule.backends, entry.payload.backends, strict=True):
            row: dict[str, Any] = {
                "upstream": weighted.upstream,
                "weight": weighted.weight,
                "found": backend.pool is not None,
            }
            if backend.pool is not None:
                row.update(_pool(backend.pool))
                row["retry"] = msgspec.to_builtins(backend.retry)
                row["timeouts"] = msgspec.to_builtins(backend.timeouts)
            answer["upstreams"].append(row)
        return answer

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


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "source": msgspec.to_builtins(pool.upstream.endpoints),
        "algorithm": pool.upstream.balancing.algorithm,
        "endpoints": [
            {
                "endpoint": state.authority,
                "id": state.endpoint.id,
                "weight": state.weight,
                "zone": state.endpoint.zone,
                "active": state.active,
                "attempts": state.attempts,
                "failures": state.failures,
                "circuit": state.breaker.state,
            }
            for state in pool.endpoints
        ],
    }


def _split_url(url: str, host_header: str) -> tuple[str, str]:
    """Return `(host, path)` in normal form. Raises ValueError with a text for people."""
    rest, authority = url, host_header
    if "://" in url:
        rest = url.partition("://")[2]
        at = min((index for index in (rest.find("/"), rest.find("?")) if index >= 0), default=len(rest))
        authority, rest = rest[:at], rest[at:]
    path = rest.partition("#")[0].partition("?")[0] or "/"
    host = hosts.parse(authority)[0] if authority else ""
    return host, paths.normalise(path)


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: REDACTED if is_secret(key) and isinstance(item, str) else _redacted(item)
            for key, item in value.items()
        }
    return [_redacted(item) for item in value] if isinstance(value, list) else value


def _without_header_values(value: Any) -> Any:
    """Return the value with what its header filters put into secret-looking headers (`authorization`, …) redacted."""
    if isinstance(value, dict):
        if value.get("type") == _HEADER_FILTER:
            return {
                key: [(name, REDACTED if is_secret(name) else text) for name, text in item]
                if key in ("set", "add")
                else item
                for key, item in value.items()
            }
        return {key: _without_header_values(item) for key, item in value.items()}
    return [_without_header_values(item) for item in value] if isinstance(value, list | tuple) else value


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=lambda item: json.dumps(item, indent=2, default=str) + "\n")
