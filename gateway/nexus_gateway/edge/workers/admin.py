"""The admin API of a gateway with workers: asks each worker's own and answers for all.

It is what `nexus_gateway.edge.admin` is for one process, with `/workers` beside it. An answer is made of those workers that
reply within `ASK_S`; how many did is in the header `Nexus-Workers`, as `2/2`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, UnixConnector, web

from nexus_gateway.edge.plugins.logbooks import BEAT_S, NDJSON
from nexus_gateway.edge.workers import merging
from nexus_gateway.edge.workers.merging import Answer
from nexus_gateway.edge.workers.processes import Worker
from nexus_gateway.edge.workers.supervisor import Supervisor

log = logging.getLogger("nexus.gateway.workers")

ASK_S = 3.0
MEASUREMENTS = "/measurements"
"""Where a worker hands out its measurements as numbers, for `Render`; on its Unix socket alone."""
MAX_EXPORT_BYTES = 4 * 2**20
_NOBODY = "No worker answers at the moment. Try again; /workers says how they are."

Render = Callable[[Sequence[bytes], str], tuple[bytes, str]]
"""(each worker's measurements as its `/measurements` gave them, Accept header) → (body, content type)."""
Said = tuple[int, bytes, str]
"""(status, body, content type) of one worker's answer."""
Merge = Callable[[Sequence[Answer]], Answer]


class MergedAdmin:
    """The handlers. Raises nothing at a worker that dies while it is asked: it is left out."""

    def __init__(self, supervisor: Supervisor, replica: str, render: Render, *, traces: bool) -> None:
        """traces: whether the workers keep traces, so that there is something to show and `POST /v1/traces` is taken."""
        self._supervisor = supervisor
        self._replica = replica
        self._render = render
        self._traces = traces

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=MAX_EXPORT_BYTES)
        app.add_routes([web.get("/healthz", self.healthz), web.get("/readyz", self.readyz)])
        app.add_routes([web.get("/workers", self.workers), web.get("/metrics", self.metrics)])
        for path, merge in (
            ("/config", self._config), ("/listeners", merging.listeners), ("/routes", _first),
            ("/explain", merging.explained), ("/plugins", merging.plugins),
            ("/problems", merging.problems), ("/endpoints", merging.endpoints), ("/breakers", merging.breakers),
            ("/samples", self._samples),
        ):  # fmt: skip
            app.router.add_get(path, self._merged(merge))
        app.router.add_get("/plugins/{namespace}/{name}/logs", self.logs)
        if self._traces:
            app.router.add_get("/traces", self.traces)
            app.router.add_get("/traces/{trace_id}", self._merged(merging.trace))
            app.router.add_post("/v1/traces", self.export)
        app.router.add_route("*", "/{path:.*}", self.forward)
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the supervisor's event loop turns: it replaces workers, so a restart from outside would only cost."""
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 while every worker is ready."""
        why, generation = self._supervisor.not_ready, self._supervisor.generation
        if why is None:
            return _json({"status": "ready", "generation": generation})
        return _json({"status": "not ready", "reason": why, "generation": generation}, status=503)

    async def workers(self, request: web.Request) -> web.Response:
        """Each worker: its process, how it is, how often its place was filled again."""
        now = asyncio.get_running_loop().time()
        rows = [
            {
                "worker": slot.index,
                "pid": worker.pid if worker is not None else None,
                "ready": worker is not None and worker.state.ready,
                "reason": worker.state.reason if worker is not None else "being replaced",
                "generation": worker.state.generation if worker is not None else 0,
                "age_s": round(now - worker.started_at, 3) if worker is not None else 0.0,
                "restarts": slot.restarts,
            }
            for slot in self._supervisor.slots
            for worker in (slot.current,)
        ]
        return _json({"replica": self._replica, "workers": rows})

    async def metrics(self, request: web.Request) -> web.Response:
        """All workers' metrics as one."""
        found = await self._ask_all("GET", MEASUREMENTS)
        states = [body for status, body, _ in found if status == 200]
        body, content_type = self._render(states, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, **self._count(states)})

    def _merged(self, merge: Merge) -> Callable[[web.Request], Any]:
        async def answer(request: web.Request) -> web.Response:
            return await self._answer(request.path_qs, merge)

        return answer

    async def traces(self, request: web.Request) -> web.Response:
        """The newest traces of all workers: `?limit=20`."""
        text = request.query.get("limit", "20")
        limit = (
            int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        )  # the workers refuse what is none
        return await self._answer(request.path_qs, lambda answers: merging.traces(answers, limit))

    def _samples(self, answers: Sequence[Answer]) -> Answer:
        return {**merging.samples(answers), "replica": self._replica}

    def _config(self, answers: Sequence[Answer]) -> Answer:
        return {**answers[0], "replica": self._replica}

    async def forward(self, request: web.Request) -> web.Response:
        """Anything else: as the first worker that answers says it."""
        body = await request.read() if request.can_read_body else None
        headers = {"Content-Type": request.headers["Content-Type"]} if "Content-Type" in request.headers else None
        for worker in self._supervisor.workers:
            found = await self._ask(worker, request.method, request.path_qs, body, headers)
            if found is not None:
                return web.Response(status=found[0], body=found[1], headers={"Content-Type": found[2]})
        return _json({"error": _NOBODY}, status=503)

    async def _answer(self, path: str, merge: Merge) -> web.Response:
        """Return the merged answer of those that answered 200; if none did, what the first one said."""
        found = await self._ask_all("GET", path)
        good = [json.loads(body) for status, body, _ in found if status == 200]
        if good:
            return _json(merge(good), headers=self._count(good))
        if found:
            status, body, kind = found[0]
            return web.Response(status=status, body=body, headers={"Content-Type": kind})
        return _json({"error": _NOBODY}, status=503)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """The lines of a plugin in all workers, each with its worker: the last ones by time, or as they come."""
        if request.query.get("follow", "") in ("1", "true"):
            return await self._follow(request)
        found = await self._ask_each("GET", request.path_qs)
        good = [(worker, body) for worker, (status, body, _) in found if status == 200]
        if good:
            lines = [
                {**json.loads(line), "worker": worker.index}
                for worker, body in good
                for line in body.splitlines()
                if line
            ]
            lines.sort(key=lambda each: str(each["at"]))
            return web.Response(body=b"".join(map(_line, lines)), content_type=NDJSON, headers=self._count(good))
        if found:
            status, body, kind = found[0][1]
            return web.Response(status=status, body=body, headers={"Content-Type": kind})
        return _json({"error": _NOBODY}, status=503)

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """Pass on what all workers write, until the client leaves or no worker is left that writes."""
        response: web.StreamResponse | None = None
        timeout = ClientTimeout(total=None, connect=ASK_S, sock_read=4 * BEAT_S)
        async with contextlib.AsyncExitStack() as stack:
            streams: list[tuple[Worker, ClientResponse]] = []
            for worker in self._supervisor.workers:
                with contextlib.suppress(ClientError, OSError, TimeoutError):
                    session = await stack.enter_async_context(
                        ClientSession(
                            connector=UnixConnector(worker.admin), timeout=timeout, cookie_jar=DummyCookieJar()
                        )
                    )
                    stream = await stack.enter_async_context(session.get(f"http://worker{request.path_qs}"))
                    streams.append((worker, stream))
            good = [(worker, stream) for worker, stream in streams if stream.status == 200]
            if not good:
                if not streams:
                    return _json({"error": _NOBODY}, status=503)
                refused = streams[0][1]
                kind = refused.headers.get("Content-Type", "application/json")
                return web.Response(status=refused.status, body=await refused.read(), headers={"Content-Type": kind})
            response = web.StreamResponse(headers={"Content-Type": NDJSON, **self._count(good)})
            await response.prepare(request)
            async with asyncio.TaskGroup() as group:
                for worker, stream in good:
                    group.create_task(_pass_on(worker, stream, response))
        return response

    async def export(self, request: web.Request) -> web.Response:
        """OTLP/HTTP from services: every worker keeps it, because any may have served the trace's request."""
        # No Content-Encoding: aiohttp has decompressed it already.
        headers = {"Content-Type": request.headers.get("Content-Type", "")}
        found = await self._ask_all("POST", "/v1/traces", await request.read(), headers)
        if not found:
            return _json({"error": _NOBODY}, status=503)
        status, body, kind = max(found, key=lambda each: each[0] == 200)
        return web.Response(status=status, body=body, headers={"Content-Type": kind})

    async def _ask_all(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> list[Said]:
        return [said for _, said in await self._ask_each(method, path, body, headers)]

    async def _ask_each(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> list[tuple[Worker, Said]]:
        workers = self._supervisor.workers
        asked = await asyncio.gather(*(self._ask(worker, method, path, body, headers) for worker in workers))
        return [(worker, said) for worker, said in zip(workers, asked, strict=True) if said is not None]

    async def _ask(
        self, worker: Worker, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
    ) -> Said | None:
        # A session for each question: these are a few a minute, and a worker's socket path may be another process's next.
        with contextlib.suppress(ClientError, OSError, TimeoutError):
            async with (
                ClientSession(
                    connector=UnixConnector(worker.admin),
                    timeout=ClientTimeout(total=ASK_S),
                    cookie_jar=DummyCookieJar(),
                ) as session,
                session.request(method, f"http://worker{path}", data=body, headers=headers) as response,
            ):
                kind = response.headers.get("Content-Type", "application/octet-stream")
                return response.status, await response.read(), kind
        log.info("worker %d did not answer %s", worker.index, path.partition("?")[0])
        return None

    def _count(self, answers: Sequence[object]) -> dict[str, str]:
        return {"Nexus-Workers": f"{len(answers)}/{len(self._supervisor.slots)}"}


async def _pass_on(worker: Worker, stream: ClientResponse, response: web.StreamResponse) -> None:
    # Whoever breaks off, worker or client, ends this worker's part alone; the client's end is every part's.
    with contextlib.suppress(ClientError, ConnectionError, TimeoutError, ValueError):
        async for raw in stream.content:
            text = raw.strip()
            await response.write(_line({**json.loads(text), "worker": worker.index}) if text else b"\n")


def _line(line: Answer) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _first(answers: Sequence[Answer]) -> Answer:
    return answers[0]


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(
        value, status=status, headers=headers, dumps=lambda item: json.dumps(item, indent=2, default=str) + "\n"
    )
