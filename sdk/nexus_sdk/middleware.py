"""What wraps every handler: metrics, access log, deadline, body limit, errors as RFC 9457."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from nexus_sdk import deadlines, replies, tracing
from nexus_sdk.errors import HttpProblem, NexusError
from nexus_sdk.logs import Log
from nexus_sdk.metrics import Metrics, route_of

DOCUMENT = "/openapi.json"
CLIENT_GONE = 499
"""Status in metrics and logs of a request whose connection ended before the answer (nginx's number)."""


def build_observing(metrics: Metrics, log: Log, is_draining: Callable[[], bool]) -> Middleware:
    """Return the outermost middleware: counts, times and logs each request; asks clients to reconnect while draining."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        started, status = loop.time(), CLIENT_GONE
        metrics.begin()
        try:
            response = await handler(request)
            status = response.status
            if is_draining() and not response.prepared:
                response.force_close()  # the next request of this client goes to a replica that stays
            return response
        except web.HTTPException as stop:
            status = stop.status  # a redirect; errors have become answers further in
            raise
        finally:
            seconds = loop.time() - started
            metrics.end(request, status, seconds)
            if request.path not in tracing.UNTRACED:
                # The GraphQL service asks for the document every few seconds: no news.
                write = log.debug if request.path == DOCUMENT and status < 400 else log.info
                write(
                    "request", method=request.method, path=request.path, route=route_of(request), status=status,
                    duration_ms=round(seconds * 1000, 3), request_id=replies.request_id(request),
                )  # fmt: skip

    return observe


def build_answering(max_body_bytes: int, log: Log) -> Middleware:
    """Return the innermost middleware: deadline, body limit, and every error as a problem document."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.content_length is not None and request.content_length > max_body_bytes:
                return _refuse(request, *_too_large(max_body_bytes), close=True)
            return await _within_deadline(request, handler)
        except HttpProblem as problem:
            return replies.problem(
                problem.http_status, problem.http_reason, problem.detail, request_id=replies.request_id(request),
                trace_id=tracing.trace_id(), headers=problem.headers, members=problem.members,
            )  # fmt: skip
        except web.HTTPRequestEntityTooLarge:
            return _refuse(request, *_too_large(max_body_bytes), close=True)
        except web.HTTPException as stop:
            if stop.status < 400:
                raise
            headers = {
                k: v for k, v in stop.headers.items() if k.lower() in ("allow", "retry-after", "www-authenticate")
            }
            detail = (
                stop.text if stop.text and stop.text != f"{stop.status}: {stop.reason}" else _explain(request, stop)
            )
            reason = (stop.reason or replies.title_of(stop.status)).title().replace(" ", "").replace("-", "")
            return _refuse(request, stop.status, reason, detail, headers=headers)
        except NexusError as error:
            log.warning("call failed", reason=error.reason, fault=error.fault, detail=str(error))
            headers = {"retry-after": "1"} if error.status == 503 else {}
            # The text names addresses inside: it is for our log; the client gets what it can act on.
            detail = "A service that this request needs did not answer. Retry later." if error.retryable else _OURS
            return _refuse(request, error.status, error.reason, detail, headers=headers)
        except asyncio.CancelledError:
            raise  # the deadline of the drain has come
        except Exception as error:
            if isinstance(error, ConnectionResetError) and (
                request.transport is None or request.transport.is_closing()
            ):
                # Nobody reads this answer. Raised, it would be a traceback in the log for each client that goes away.
                return web.Response(status=CLIENT_GONE, reason="Client Closed Request")
            log.exception("handler failed", method=request.method, route=route_of(request))
            return _refuse(request, 500, "InternalError", _OURS)

    return answer


_OURS = "The service failed. Report the request_id to its operators."


async def _within_deadline(request: web.Request, handler: Handler) -> web.StreamResponse:
    text = request.headers.get(deadlines.HEADER)
    # An upgraded connection outlives its request: the sender's deadline is for the handshake alone.
    if text is None or "upgrade" in request.headers.get("connection", "").lower():
        return await handler(request)
    seconds = deadlines.parse(text)
    if seconds is None:
        detail = (
            f"Header {deadlines.HEADER}: {text[:40]!r} is no number of seconds. Send decimal seconds, such as '2.5'."
        )
        return _refuse(request, 400, "DeadlineInvalid", detail)
    token = deadlines.enter(asyncio.get_running_loop().time() + seconds)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await handler(request)
    except TimeoutError:
        if not limit.expired():
            raise  # the handler's own
        detail = f"The caller's deadline of {deadlines.show(seconds)} s ({deadlines.HEADER}) passed. Allow more time, or ask for less."
        return _refuse(request, 504, "DeadlineExceeded", detail)
    finally:
        deadlines.leave(token)


def _too_large(limit: int) -> tuple[int, str, str]:
    return (
        413,
        "BodyTooLarge",
        f"The request body is larger than {limit} bytes. Send less, or raise NEXUS_MAX_BODY_BYTES.",
    )


def _explain(request: web.Request, stop: web.HTTPException) -> str:
    if stop.status == 404:
        return f"Nothing is served at {request.path[:200]}. Look at /openapi.json for the paths of this service."
    if isinstance(stop, web.HTTPMethodNotAllowed):
        return f"{request.method} is not allowed here. Use one of: {', '.join(sorted(stop.allowed_methods))}."
    return replies.title_of(stop.status) + "."


def _refuse(
    request: web.Request, status: int, reason: str, detail: str, *, headers: dict[str, str] | None = None,
    close: bool = False,
) -> web.Response:  # fmt: skip
    response = replies.problem(
        status, reason, detail, request_id=replies.request_id(request), trace_id=tracing.trace_id(), headers=headers
    )
    if close:
        response.force_close()  # the rest of the body is not read
    return response
