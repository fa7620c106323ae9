"""The plugin: answers in the service's place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from typing import Any

from nexus_sdk.plugin import Headers, Plugin, Reply, RequestHead

from .answers import Answer, Answers, Operation
from .preferences import choose, preferences


class Mock(Plugin):
    """Answers requests with the examples of an OpenAPI document."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._answers = Answers(config["openapi"], "config.openapi", config.get("basePath"), int(config.get("seed", 0)))
        self._unknown = str(config.get("unknownOperations", "refuse"))
        self._only = frozenset(config.get("operations", ()))
        self._statuses: Mapping[str, str] = {name: str(status) for name, status in config.get("statuses", {}).items()}
        self._prefer = bool(config.get("prefer", True))
        self._delay_s = float(config.get("delaySeconds", 0.0))
        self.sleep = asyncio.sleep

    def on_request(self, request: RequestHead) -> RequestHead | Reply | Awaitable[RequestHead | Reply]:
        """Return the answer, after the delay if there is one; the request itself when it is not for the mock."""
        operation, allowed = self._answers.find(request.method, request.path)
        if operation is None or (self._only and operation.name not in self._only):
            if self._unknown == "pass":
                return request
            if operation is None and allowed:
                refused = _problem(request, 405, "MethodUnknown", f"This path has: {', '.join(allowed)}.")
                return Reply(405, (*refused.headers, ("allow", ", ".join(allowed))), refused.body)
            return _problem(request, 404, "OperationUnknown", "The document has no such operation.")
        reply = self._reply(request, operation)
        return self._later(reply) if self._delay_s > 0 else reply

    async def _later(self, reply: Reply) -> Reply:
        await self.sleep(self._delay_s)
        return reply

    def _reply(self, request: RequestHead, operation: Operation) -> Reply:
        wished = preferences(value for name, value in request.headers if name == "prefer") if self._prefer else {}
        applied: list[str] = []
        if "code" in wished:
            code = wished["code"]
            if not (code.isascii() and code.isdigit() and len(code) == 3 and "200" <= code <= "599"):
                return _problem(request, 400, "PreferenceInvalid", "Prefer: code is a status from 200 to 599.")
            status, answer = int(code), operation.find(int(code))
            applied.append(f"code={code}")
        else:
            key = operation.default([self._statuses[operation.name]] if operation.name in self._statuses else [])
            status = _status(key)
            answer = operation.answers[key] if key is not None else Answer((), {})
        if answer is None:
            return _problem(request, 404, "ResponseUnknown", f"The operation has no response {status}.")
        if not answer.bodies or status in (204, 205, 304):
            return Reply(status, (*answer.headers, *_applied(applied)))
        media_type = choose(request.header("accept"), list(answer.bodies))
        if media_type is None:
            return _problem(request, 406, "MediaTypeUnknown", f"The response has: {', '.join(answer.bodies)}.")
        body = answer.bodies[media_type]
        if body.trouble:
            return _problem(request, 501, "ExampleMissing", body.trouble)
        name = wished.get("example", next(iter(body.examples)))
        if name not in body.examples:
            return _problem(
                request, 404, "ExampleUnknown", f"The response has the examples: {', '.join(body.examples)}."
            )
        if "example" in wished:
            applied.append(f"example={name}")
        concrete = media_type if "*" not in media_type else "application/json"
        return Reply(status, (("content-type", concrete), *answer.headers, *_applied(applied)), body.examples[name])


def _status(key: str | None) -> int:
    """Return the status of a response's key: `2XX` is 200, `default` and none are 200, too."""
    if key is None or key == "default":
        return 200
    return int(key.replace("X", "0"))


def _applied(names: list[str]) -> Headers:
    return (("preference-applied", ", ".join(names)),) if names else ()


def _problem(request: RequestHead, status: int, reason: str, detail: str) -> Reply:
    body: dict[str, Any] = {
        "type": "about:blank", "title": "The mock has no answer", "status": status, "reason": reason, "detail": detail[:1000],
    }  # fmt: skip
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    return Reply(status, (("content-type", "application/problem+json"),), json.dumps(body).encode())
