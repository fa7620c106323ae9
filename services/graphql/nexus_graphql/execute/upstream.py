"""The edge of an execution: sends operations to services and turns what goes wrong into GraphQL errors.

One `RequestCaller` lives as long as one GraphQL request. A GET asked twice in it is sent once; at most `fanout`
requests are on the way; all of them end with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

from graphql import GraphQLError
from nexus_sdk import ClientResponse, NexusError
from nexus_sdk.logs import Log

from nexus_graphql.execute import requests
from nexus_graphql.schema import Operation, ServiceInfo

LONGEST_TEXT = 500
"""Characters of a problem's text that are handed on."""
_CODES = {
    400: "BAD_USER_INPUT", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT",
    422: "BAD_USER_INPUT", 429: "RATE_LIMITED",
}  # fmt: skip


class Client(Protocol):
    """What is needed of `nexus_sdk.ServiceClient`."""

    async def request(
        self, method: str, service: str, path: str, *, data: bytes | str | None = None,
        headers: Mapping[str, str] | None = None, deadline_s: float | None = None,
    ) -> ClientResponse: ...  # fmt: skip


class RequestCaller:
    """Implements `schema.Caller`. ends_at: the loop's time by which everything is done. headers: for every request."""

    def __init__(
        self, client: Client, services: Sequence[ServiceInfo], log: Log, *, headers: Mapping[str, str],
        ends_at: float, fanout: int,
    ) -> None:  # fmt: skip
        self._client, self._services, self._log = client, services, log
        self._headers, self._ends_at = headers, ends_at
        self._slots = asyncio.Semaphore(fanout)
        self._fetched: dict[object, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def services(self) -> Sequence[ServiceInfo]:
        return self._services

    async def call(self, operation: Operation, arguments: Mapping[str, Any]) -> Any:
        try:
            request = requests.build(operation, arguments)
        except requests.Unsendable as err:
            raise GraphQLError(
                str(err), extensions=_extensions(operation.service, 400, "ArgumentInvalid", "BAD_USER_INPUT")
            ) from err
        if request.method != "GET":
            self._fetched.clear()  # what was read before a change may not be what is there after it
            return await self._send(operation, request)
        task = self._fetched.get(request.key)
        if task is None:
            task = asyncio.create_task(self._send(operation, request), name=f"graphql {operation.service}")
            self._fetched[request.key] = task
            self._tasks.add(task)
        # Shielded: a field that is given up must not take the answer from the others that wait for it.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is still on the way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, operation: Operation, request: requests.UpstreamRequest) -> Any:
        service = operation.service
        try:
            async with self._slots:
                left_s = self._ends_at - asyncio.get_running_loop().time()
                answer = await self._client.request(
                    request.method, service, request.target, data=request.body,
                    headers={**self._headers, **request.headers}, deadline_s=max(left_s, 0.0),
                )  # fmt: skip
            return self._read(operation, answer)
        except NexusError as err:
            # Its text names addresses inside: that is for our log.
            self._log.warning("upstream call failed", service=service, reason=err.reason, detail=str(err))
            what = {
                "ServiceUnavailable": "cannot be reached",
                "DeadlineExceeded": "did not answer in time",
                "ConnectionLost": "broke the connection before it answered",
            }.get(err.reason, "gave an answer that cannot be used")
            raise GraphQLError(f"{service} {what}.", extensions=_extensions(service, err.status, err.reason)) from err
        except GraphQLError:
            raise
        except Exception as err:
            self._log.exception("operation failed", service=service, at=operation.at)
            raise GraphQLError(
                "The GraphQL service failed. Report the request_id to its operators.",
                extensions={"service": service, "status": 500, "reason": "InternalError", "code": "INTERNAL_ERROR"},
            ) from err

    def _read(self, operation: Operation, answer: ClientResponse) -> Any:
        if not 200 <= answer.status < 300:
            _raise_problem(operation, answer)
        if operation.answer == "empty":
            return True
        if not answer.body:
            return None
        if operation.answer == "text":
            return answer.text()
        try:
            return json.loads(answer.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as err:
            self._log.warning(
                "upstream answer is not JSON", service=operation.service, at=operation.at, detail=str(err)
            )
            raise GraphQLError(
                f"{operation.service} answered {operation.method} {operation.path} with a body that is not JSON.",
                extensions=_extensions(operation.service, 502, "ContractBroken"),
            ) from err


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _raise_problem(operation: Operation, answer: ClientResponse) -> NoReturn:
    """Raise the GraphQL error for an answer that is no success.

    Only a problem document speaks for itself (RFC 9457: it is written for clients); other bodies are never handed on.
    """
    service, status = operation.service, answer.status
    problem = _problem(answer)
    message, reason = problem.get("detail") or problem.get("title"), problem.get("reason")
    if not isinstance(message, str):
        message = f"{service} answered {status} to {operation.method} {operation.path}."
    if not isinstance(reason, str):
        reason = "UpstreamError"
    extensions = _extensions(service, status, reason[:100])
    for key in ("request_id", "type"):
        if isinstance(value := problem.get(key), str) and value != "about:blank":
            extensions[key] = value[:LONGEST_TEXT]
    errors = problem.get("errors")
    if isinstance(errors, list) and len(answer.body) <= 16_384:
        extensions["errors"] = errors  # field errors of a validation, as RFC 9457 shows them
    if (after := answer.headers.get("retry-after")) and after.isdigit():
        extensions["retryAfter"] = int(after[:9])
    raise GraphQLError(message[:LONGEST_TEXT], extensions=extensions)


def _problem(answer: ClientResponse) -> Mapping[str, Any]:
    if answer.headers.get("content-type", "").split(";")[0].strip().lower() != "application/problem+json":
        return {}
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _extensions(service: str, status: int, reason: str, code: str | None = None) -> dict[str, Any]:
    code = code or _CODES.get(status, "DOWNSTREAM_SERVICE_ERROR" if status >= 500 else "UPSTREAM_ERROR")
    return {"code": code, "service": service, "status": status, "reason": reason}
