"""The plugin: finds the route, makes its calls side by side, and puts their parts together."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from nexus_sdk.plugin import Headers, Plugin, PluginConfigError, Reply, RequestHead

from .calls import SCOPE, Call, Part, Trouble, compile_calls
from .texts import Expression, Unfit

_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")
_FORWARDED = ("authorization", "accept-language", "traceparent", "tracestate", "x-request-id")


class Route:
    """One address that is answered by several calls."""

    def __init__(self, config: Mapping[str, Any], where: str, external: str = "") -> None:
        """external: `host[:port]` outside Nexus that calls may name. Raises PluginConfigError."""
        self.method = str(config.get("method", "GET"))
        self.path = str(config["path"])
        parts = _VARIABLE.split(self.path)
        if any("{" in part or "}" in part for part in parts[::2]):
            raise PluginConfigError(f"{where}.path: {self.path!r} has a brace that is no variable such as {{id}}.")
        text = "".join(re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/]+)" for index, part in enumerate(parts))
        try:
            self._pattern = re.compile(text)
        except re.error as error:
            raise PluginConfigError(f"{where}.path: {self.path!r} names a variable twice.") from error
        self.calls = compile_calls(config["calls"], f"{where}.calls", external)
        self.forward = frozenset(name.lower() for name in config.get("forwardHeaders", _FORWARDED))
        self.timeout_s = float(config.get("timeoutSeconds", 5.0))
        self.pass_statuses = frozenset(config.get("passStatuses", (401, 403, 404)))
        self.max_parallel = int(config.get("maxParallel", 8))
        self.max_bytes = int(config.get("maxBytes", 4 * 2**20))
        self.errors_key = str(config.get("errorsKey", "errors"))
        self.reply = Expression(config["reply"], f"{where}.reply") if "reply" in config else None
        names = {call.name for call in self.calls}
        if self.errors_key in names:
            raise PluginConfigError(f"{where}.errorsKey: {self.errors_key!r} is a call's name, too; choose another.")
        if self.reply is not None and self.reply.roots - names - set(SCOPE) - {self.errors_key}:
            strange = min(self.reply.roots - names - set(SCOPE) - {self.errors_key})
            raise PluginConfigError(f"{where}.reply: there is no {strange!r}.")
        roots = {root for call in self.calls for root in call.roots} | (self.reply.roots if self.reply else frozenset())
        self.reads_body = "body" in roots

    def match(self, request: RequestHead) -> dict[str, str] | None:
        """Return the variables of the path, decoded; None when the request is not for this route."""
        # HEAD asks what GET would be answered; its body goes no further than the gateway.
        if request.method != self.method and not (request.method == "HEAD" and self.method == "GET"):
            return None
        match = self._pattern.fullmatch(request.path)
        return {name: unquote(value) for name, value in match.groupdict().items()} if match else None


class Aggregate(Plugin):
    """Answers some addresses with what several services say."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        external = urlsplit(str(config.get("external", ""))).netloc.lower()
        self._routes = [Route(each, f"config.routes[{index}]", external) for index, each in enumerate(config["routes"])]

    async def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the reply of a route whose calls do not need the body; else the request."""
        found = self._find(request)
        if found is None or found[0].reads_body:
            return request
        return await self._answer(request, *found, None)

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether the request's calls need its body."""
        found = self._find(request)
        return found is not None and found[0].reads_body

    async def on_request_body(self, request: RequestHead, body: bytes) -> bytes | Reply:
        """Return the reply of a route whose calls need the body; else the body."""
        found = self._find(request)
        if found is None or not found[0].reads_body:
            return body
        try:
            value = json.loads(body) if body else None
        except (ValueError, RecursionError):
            return _problem(request, 400, "BodyNotJson", "The request's body is not JSON.", ())
        return await self._answer(request, *found, value)

    def _find(self, request: RequestHead) -> tuple[Route, dict[str, str]] | None:
        for route in self._routes:
            variables = route.match(request)
            if variables is not None:
                return route, variables
        return None

    async def _answer(self, request: RequestHead, route: Route, variables: Mapping[str, str], body: Any) -> Reply:
        scope: dict[str, Any] = {
            "path": variables,
            "query": dict(parse_qsl(request.query, keep_blank_values=True)),
            "header": dict(reversed(request.headers)),  # of several, the first
            "method": request.method,
            "body": body,
        }
        forwarded = tuple(pair for pair in request.headers if pair[0] in route.forward)
        parts = await self._gather(route, scope, forwarded)
        troubles = [part.trouble for part in parts.values() if part.trouble is not None]
        required = {call.name for call in route.calls if call.required}
        fatal = [trouble for trouble in troubles if trouble.part in required]
        if fatal:
            return _refused(request, route, fatal, troubles)
        made: dict[str, Any] = {name: part.value for name, part in parts.items()}
        if troubles:
            made[route.errors_key] = [trouble.as_json() for trouble in troubles]
        try:
            value = made if route.reply is None else route.reply.value({**scope, **made})
        except Unfit as error:
            return _problem(request, 502, "ReplyUnfit", f"The reply cannot be made: {error}.", troubles)
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(content) > route.max_bytes:
            return _problem(
                request, 502, "ReplyTooLarge", f"The reply is larger than {route.max_bytes} bytes.", troubles
            )
        headers: Headers = (("content-type", "application/json"),)
        if troubles:
            headers = (
                *headers,
                ("x-aggregate-missing", ", ".join(trouble.part for trouble in troubles)),
                ("cache-control", "no-store"),
            )
        return Reply(200, (*headers, *(pair for part in parts.values() for pair in part.headers)), content)

    async def _gather(self, route: Route, scope: Mapping[str, Any], forwarded: Headers) -> dict[str, Part]:
        """Return the parts by name, sorted. Ends at the first required one that fails, or out of time."""
        gate = asyncio.Semaphore(route.max_parallel)
        tasks: dict[str, asyncio.Task[Part]] = {}

        async def one(call: Call) -> Part:
            seen = dict(scope)
            for name in call.needs:
                before = await asyncio.shield(tasks[name])
                if before.trouble is not None and before.value is None:
                    trouble = Trouble(
                        call.name, "PartNotAsked", f"It needs {name}, which is missing.", before.trouble.status
                    )
                    return Part(call.default, trouble)
                seen[name] = before.value
            async with gate:
                return await call.make(self.context, seen, forwarded)

        for call in route.calls:  # each after those it waits for
            tasks[call.name] = asyncio.create_task(one(call), name=f"aggregate {call.name}")
        required = {call.name for call in route.calls if call.required}
        try:
            async with asyncio.timeout(route.timeout_s):
                pending = set(tasks.values())
                while pending:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    if any(tasks[name] in done and tasks[name].result().trouble for name in required):
                        break
        except TimeoutError:
            pass  # what is not there yet is missing
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        late = {
            call.name: Part(call.default, Trouble(call.name, "PartLate", "It was not there in time."))
            for call in route.calls
        }
        return {name: task.result() if not task.cancelled() else late[name] for name, task in sorted(tasks.items())}


def _refused(request: RequestHead, route: Route, fatal: list[Trouble], troubles: list[Trouble]) -> Reply:
    """Return the reply when a required part is missing: its own status where that is for the client, else 504 or 502."""
    passed = [trouble.status for trouble in fatal if trouble.status in route.pass_statuses]
    late = all(trouble.reason == "PartLate" for trouble in fatal)
    status = passed[0] if passed else 504 if late else 502
    # A part that was given up because a required one failed is not late.
    told = [trouble for trouble in troubles if trouble.reason != "PartLate" or status == 504]
    return _problem(request, status, "PartMissing", f"The part {fatal[0].part!r} is missing.", told)


def _problem(request: RequestHead, status: int, reason: str, detail: str, troubles: Any) -> Reply:
    body: dict[str, Any] = {
        "type": "about:blank", "title": "The reply cannot be put together", "status": status, "reason": reason, "detail": detail,
    }  # fmt: skip
    errors = [trouble.as_json() for trouble in troubles]
    if errors:
        body["errors"] = errors
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    return Reply(status, (("content-type", "application/problem+json"),), json.dumps(body).encode())
