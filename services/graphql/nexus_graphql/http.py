"""The endpoint: HTTP in, `protocol` decides, the engine of the moment runs, HTTP out."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from aiohttp import web
from nexus_core.hooks import Operation
from nexus_sdk import deadlines, replies
from nexus_sdk.logs import Log
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from nexus_graphql import hooks, protocol
from nexus_graphql.catalogue import Catalogue
from nexus_graphql.execute.ports import Engine, FormattedError, Outcome, Plan
from nexus_graphql.execute.upstream import Client, RequestCaller
from nexus_graphql.graphiql import GraphiqlPage
from nexus_graphql.hooks import OperationHooks
from nexus_graphql.protocol import GraphqlRequest, Refused
from nexus_graphql.settings import GraphqlSettings


class Endpoint:
    """Serves one path. page: what browsers get, None for nothing."""

    def __init__(
        self, catalogue: Catalogue, client: Client, settings: GraphqlSettings, tracer: Tracer, log: Log,
        page: GraphiqlPage | None, operation_hooks: OperationHooks,
    ) -> None:  # fmt: skip
        self._catalogue, self._client, self._settings = catalogue, client, settings
        self._tracer, self._log, self._page, self._hooks = tracer, log, page, operation_hooks

    async def handle(self, request: web.Request) -> web.StreamResponse:
        accept = request.headers.get("accept")
        if request.method in ("GET", "HEAD") and self._page is not None and protocol.wants_page(accept):
            return self._page.answer()
        media = protocol.choose_media(accept)
        if media is None:
            text = f"Accept has to allow {protocol.RESPONSE} or {protocol.JSON}."
            return _reply(protocol.JSON, 406, None, [{"message": text, "extensions": {"code": "NOT_ACCEPTABLE"}}])
        try:
            return await self._serve(request, media)
        except Refused as why:
            error = {"message": str(why), "extensions": {"code": why.code}}
            return _reply(media, why.status, None, [error], {"allow": why.allow} if why.allow else {})

    async def _serve(self, request: web.Request, media: str) -> web.Response:
        asked = await self._read(request)
        # The spec: a document that cannot run is 400; under application/json it is 200, for clients that take every
        # other status for a broken connection.
        refusal = 200 if media == protocol.JSON else 400
        view = self._catalogue.view
        plan = view.engine.prepare(asked.query)
        if plan.errors:
            return _reply(media, refusal, None, plan.errors)
        found = view.engine.find_operation(plan, asked.operation_name)
        if found is None:
            if asked.operation_name is None:
                text = "The document has several operations, or none. Name one in 'operationName'."
            else:
                text = f"The document has no operation {asked.operation_name[:100]!r}."
            return _reply(media, refusal, None, [{"message": text, "extensions": {"code": "OPERATION_NOT_FOUND"}}])
        kind, name = found
        if kind != "query" and request.method != "POST":
            raise Refused(405, "METHOD_NOT_ALLOWED", "A mutation cannot be sent with GET. Send it with POST.", "POST")
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._settings.timeout_s
        inherited = deadlines.current()
        caller = RequestCaller(
            self._client, view.services, self._log, headers=self._forwarded(request),
            ends_at=ends_at if inherited is None else min(ends_at, inherited), fanout=self._settings.fanout,
        )  # fmt: skip
        with self._tracer.start_as_current_span(f"graphql {kind}", kind=SpanKind.INTERNAL) as span:
            span.set_attribute("graphql.operation.type", kind)
            if name:
                span.set_attribute("graphql.operation.name", name)
            try:
                outcome = await self._execute(request, asked, view.engine, plan, kind, name, caller)
            except hooks.Refused as why:
                span.set_attribute("nexus.graphql.refused", str(why)[:200])
                return _reply(media, refusal, None, why.errors)
            finally:
                await caller.close()
            if outcome.errors:
                span.set_status(Status(StatusCode.ERROR, str(outcome.errors[0].get("message", ""))[:200]))
                span.set_attribute("nexus.graphql.errors", len(outcome.errors))
        if not outcome.started:
            return _reply(media, refusal, None, outcome.errors)
        return _reply(media, 200, outcome, outcome.errors)

    async def _execute(
        self, request: web.Request, asked: GraphqlRequest, engine: Engine, plan: Plan, kind: Literal["query", "mutation"],
        name: str, caller: RequestCaller,
    ) -> Outcome:  # fmt: skip
        """Execute the operation, with plugins before and after if there are any. Raises hooks.Refused."""
        if not self._hooks.wanted:
            return await engine.execute(plan, asked.operation_name, asked.variables, caller)
        fields, depth = engine.describe(plan, asked.operation_name)
        headers = tuple((key.lower(), value) for key, value in request.headers.items())
        operation = Operation(kind, asked.query, name, dict(asked.variables), fields, depth, headers)
        operation = operation.with_variables(await self._hooks.parsed(operation))
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome = await engine.execute(plan, asked.operation_name, operation.variables, caller)
        return await self._hooks.resolved(operation, outcome, loop.time() - began)

    async def _read(self, request: web.Request) -> GraphqlRequest:
        if request.method in ("GET", "HEAD"):
            return protocol.parse_get(request.query)
        if request.method != "POST":
            raise Refused(405, "METHOD_NOT_ALLOWED", f"{request.method} is not allowed. Use GET or POST.", "GET, POST")
        return protocol.parse_post(request.headers.get("content-type", ""), await request.read())

    def _forwarded(self, request: web.Request) -> Mapping[str, str]:
        headers = {n: request.headers[n] for n in self._settings.forward_headers if n in request.headers}
        if "x-request-id" in self._settings.forward_headers:
            headers["x-request-id"] = replies.request_id(request)
        return headers


def _reply(
    media: str, status: int, outcome: Outcome | None, errors: Sequence[FormattedError],
    headers: Mapping[str, str] | None = None,
) -> web.Response:  # fmt: skip
    """Return the answer. outcome: None when nothing ran: then there is no `data` (spec, "Request error result")."""
    members: dict[str, Any] = {}
    if errors:
        members["errors"] = list(errors)
    if outcome is not None:
        members["data"] = outcome.data
        if outcome.extensions:
            members["extensions"] = dict(outcome.extensions)
    return web.Response(
        body=_encode(members), status=status,
        headers={"content-type": f"{media}; charset=utf-8", "vary": "accept", **(headers or {})},
    )  # fmt: skip


def _encode(members: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(members)
    except (msgspec.EncodeError, OverflowError, UnicodeEncodeError, TypeError):
        # Integers past 64 bits and lone surrogates, which JSON can carry and msgspec cannot.
        return json.dumps(_finite(members), allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """Return the value with null for numbers that are not finite, as msgspec writes them: one service sends `1e999`."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
