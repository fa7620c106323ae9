"""ServiceClient: a call to another service by name — found, balanced, retried, bounded in time and size, traced."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from nexus_core.discovery import Discovery, service_name
from yarl import URL

from nexus_sdk import deadlines, logs
from nexus_sdk.client import retries
from nexus_sdk.client.breakers import Permit
from nexus_sdk.client.pools import Balancing, Pool, Seat
from nexus_sdk.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NexusError,
    PeerError,
    ServiceUnavailable,
    UsageError,
)
from nexus_sdk.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How calls are made.

    deadline_s: for a whole call with all its tries, when neither the call nor the request being handled says less.
    try_timeout_s: for one try; None: what is left of the deadline. connect_s: for a TCP connection.
    attempts: tries of one call at most, the first one included. budget_percent: retries per 100 requests.
    failures, reset_s: the breaker of each endpoint. max_response_bytes: larger answers raise PeerError.
    connections: to all services together. services: watched at once; the longest unused is dropped.
    """

    deadline_s: float = 10.0
    try_timeout_s: float | None = 5.0
    connect_s: float = 1.0
    attempts: int = 3
    budget_percent: float = 20.0
    failures: int = 5
    reset_s: float = 10.0
    max_response_bytes: int = 16 * 1024 * 1024
    connections: int = 512
    services: int = 256
    balancing: Balancing = "least-request"


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """A whole answer. headers: case-insensitive, repeats kept. body: at most `max_response_bytes`."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    service: str = ""

    @property
    def ok(self) -> bool:
        return self.status < 400

    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """Return the decoded body. Raises PeerError if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise PeerError(
                f"{self.service} answered {self.status} with a body that is not JSON ({error}): {self.text()[:120]!r}. "
                "Correct that service, or read .body."
            ) from error


@dataclass(slots=True)
class _Failure:
    """Why a try did not give an answer to hand on."""

    error: NexusError
    cause: BaseException | None
    outcome: str
    unsent: bool = False
    """The request did not reach the peer: any method may be tried again."""
    response: ClientResponse | None = None
    """The answer to give if there is no further try."""
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    service: str
    method: str
    path: str
    params: Mapping[str, str] | None
    headers: CIMultiDict[str]
    body: bytes | None
    may_repeat: bool
    ends_at: float
    try_timeout_s: float | None


class ServiceClient:
    """Calls services by their short name in the own namespace (`orders`), or `orders.shop` for another's.

    Owned by its app: `close` ends its watches and connections. Use it from one event loop.
    """

    def __init__(
        self,
        discovery: Discovery,
        namespace: str,
        *,
        settings: ClientSettings | None = None,
        metrics: Metrics | None = None,
        trace_config: aiohttp.TraceConfig | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._discovery, self._namespace = discovery, namespace
        self._settings = settings or ClientSettings()
        self._metrics = metrics or Metrics()
        self._trace_config = trace_config
        self._rng = rng or random.Random()
        self._log = logs.make("client")
        self._session: aiohttp.ClientSession | None = None
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        self._closed = False

    async def request(
        self,
        method: str,
        service: str,
        path: str,
        *,
        json: Any = None,
        data: bytes | str | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        try_timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> ClientResponse:
        """Return the answer, whatever its status: 4xx and 5xx are answers.

        path: absolute, percent-encoded or plain. json: encoded as the body; data: the body as it is; not both.
        deadline_s: for the whole call; a deadline of the request being handled cuts it. idempotent: whether a try that
        may have had its effect may be repeated; None: by the method (GET HEAD OPTIONS PUT DELETE).
        Raises ServiceUnavailable (nobody there, or every circuit open), DeadlineExceeded, ConnectionLost (sent, but no
        answer came), PeerError (broken HTTP or an answer too large), UsageError.
        """
        call = self._build(method, service, path, json, data, params, headers, deadline_s, try_timeout_s, idempotent)
        try:
            async with asyncio.timeout_at(call.ends_at) as limit:
                return await self._tries(call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"{call.method} {call.service}{call.path}: no answer before the deadline. "
                "Allow more with deadline_s, or look at that service's latency."
            ) from error

    async def get(self, service: str, path: str, **options: Any) -> ClientResponse:
        """`request("GET", …)`."""
        return await self.request("GET", service, path, **options)

    async def post(self, service: str, path: str, **options: Any) -> ClientResponse:
        """`request("POST", …)`."""
        return await self.request("POST", service, path, **options)

    def breakers(self) -> Mapping[str, Mapping[str, str]]:
        """Return the state of every circuit by service and `address:port`."""
        return {
            name: {seat.endpoint.authority: seat.breaker.state for seat in watched.pool.seats.values()}
            for name, watched in self._watched.items()
        }

    async def close(self) -> None:
        """End watches and connections; calls after it raise UsageError."""
        self._closed = True
        watched = list(self._watched.values())
        self._watched.clear()
        for each in watched:
            await each.stop()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _build(
        self, method: str, service: str, path: str, document: Any, data: bytes | str | None,
        params: Mapping[str, str] | None, headers: Mapping[str, str] | None, deadline_s: float | None,
        try_timeout_s: float | None, idempotent: bool | None,
    ) -> _Call:  # fmt: skip
        if self._closed:
            raise UsageError(f"{method} {service}{path}: the client is closed. Make calls before the app has stopped.")
        if not path.startswith("/"):
            raise UsageError(f"{method} {service}: path {path!r} is not absolute. Write {'/' + path!r}.")
        if document is not None and data is not None:
            raise UsageError(f"{method} {service}{path}: give json or data, not both.")
        sent: CIMultiDict[str] = CIMultiDict(headers or {})
        body = data.encode() if isinstance(data, str) else data
        if document is not None:
            body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
            sent.setdefault("content-type", "application/json")
        now = asyncio.get_running_loop().time()
        ends_at = now + (self._settings.deadline_s if deadline_s is None else deadline_s)
        inherited = deadlines.current()
        method = method.upper()
        return _Call(
            service if "." in service else service_name(service, self._namespace),
            method, path, params, sent, body,
            method in retries.IDEMPOTENT if idempotent is None else idempotent,
            ends_at if inherited is None else min(ends_at, inherited),
            self._settings.try_timeout_s if try_timeout_s is None else try_timeout_s,
        )  # fmt: skip

    async def _tries(self, call: _Call) -> ClientResponse:
        loop = asyncio.get_running_loop()
        watched = await self._watch(call.service)
        pool = watched.pool
        pool.budget.note_request(loop.time())
        tried: frozenset[tuple[str, int]] = frozenset()
        failure: _Failure | None = None
        for attempt in range(1, self._settings.attempts + 1):
            now = loop.time()
            picked = pool.pick(tried, now, self._rng)
            if picked is None:
                if failure is not None:
                    break
                raise self._unavailable(call, pool, now)
            seat, permit = picked
            tried |= {(seat.endpoint.address, seat.endpoint.port)}
            result = await self._try(call, seat, permit)
            self._metrics.circuits_open.labels(call.service).set(pool.count_open())
            if isinstance(result, ClientResponse):
                self._metrics.attempts.labels(call.service, "ok").inc()
                return result
            failure = result
            self._metrics.attempts.labels(call.service, failure.outcome).inc()
            if attempt == self._settings.attempts or not (call.may_repeat or failure.unsent):
                break
            wait_s = retries.wait_s(attempt, self._rng) if failure.wait_s is None else failure.wait_s
            now = loop.time()
            if now + wait_s >= call.ends_at or not pool.budget.take_retry(now):
                break
            await asyncio.sleep(wait_s)
        assert failure is not None  # attempts is at least 1, and a picked seat gives a result
        if failure.response is not None:
            return failure.response
        raise failure.error from failure.cause

    async def _try(self, call: _Call, seat: Seat, permit: Permit) -> ClientResponse | _Failure:
        """Make one try and tell the breaker of it."""
        loop = asyncio.get_running_loop()
        settled = False
        seat.active += 1
        try:
            left_s = call.ends_at - loop.time()
            seconds = left_s if call.try_timeout_s is None else min(left_s, call.try_timeout_s)
            result = await self._send(call, seat, seconds)
            settled = True
            failure = result if isinstance(result, _Failure) else None
            if failure is None or (isinstance(failure.error, PeerError) and failure.outcome == "too-large"):
                seat.breaker.succeeded(permit)  # it lives and answers; the size is a matter of the question
            else:
                seat.breaker.failed(permit, loop.time())
            return result
        finally:
            seat.active -= 1
            if not settled:
                # Cancelled: by the deadline of the call, which says something of a peer that had its full time;
                # or by the caller, which says nothing.
                if loop.time() >= call.ends_at:
                    seat.breaker.failed(permit, loop.time())
                else:
                    seat.breaker.abandoned(permit)

    async def _send(self, call: _Call, seat: Seat, seconds: float) -> ClientResponse | _Failure:
        where = f"{call.method} {call.service}{call.path} at {seat.endpoint.authority}"
        headers = call.headers.copy()
        headers[deadlines.HEADER] = deadlines.show(seconds)
        limit = asyncio.timeout(seconds)
        try:
            async with (
                limit,
                self._get_session().request(
                    call.method,
                    # Put together and not joined: a path of `//host/` would be joined to another authority.
                    URL(f"http://{seat.endpoint.authority}{call.path}"),
                    params=call.params,
                    headers=headers,
                    # A file is sent in pieces: aiohttp writes large bytes at once and warns that it holds the loop.
                    data=io.BytesIO(call.body) if call.body is not None and len(call.body) > 65_536 else call.body,
                    allow_redirects=False,
                ) as answer,
            ):
                body = await _read(answer, self._settings.max_response_bytes)
                response = ClientResponse(answer.status, answer.headers, body or b"", call.service)
        except TimeoutError as error:
            if not limit.expired():  # aiohttp's own: the connection was not made in time
                text = f"{where}: no connection within {self._settings.connect_s:g} s. Is that instance overloaded or gone?"
                return _Failure(ServiceUnavailable(text), error, "connect-timeout", unsent=True)
            text = f"{where}: no answer within {seconds:.3f} s (one try). Allow more with try_timeout_s, or look at its latency."
            return _Failure(DeadlineExceeded(text), error, "timeout")
        except aiohttp.ClientConnectorError as error:
            text = f"{where}: no connection ({error.strerror or error}). Is that instance still running?"
            return _Failure(ServiceUnavailable(text), error, "connect-failure", unsent=True)
        except aiohttp.InvalidURL as error:
            raise UsageError(f"{where}: the path makes no URL ({error}). Percent-encode it.") from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            return _Failure(
                PeerError(f"{where}: the answer is not HTTP ({error}). Correct that service."), error, "protocol"
            )
        except (aiohttp.ClientError, OSError) as error:
            text = f"{where}: the connection broke before the answer ({error or type(error).__name__}). Did that instance stop?"
            return _Failure(ConnectionLost(text), error, "connection-lost")
        if body is None:
            text = (
                f"{where}: the answer is larger than {self._settings.max_response_bytes} bytes. Ask for less (a page)."
            )
            return _Failure(PeerError(text), None, "too-large")
        if response.status in retries.RETRIED_STATUS:
            wait_s = retries.parse_retry_after(response.headers.get("retry-after"))
            text = f"{where}: status {response.status}"
            return _Failure(ServiceUnavailable(text), None, str(response.status), response=response, wait_s=wait_s)
        return response

    def _unavailable(self, call: _Call, pool: Pool, now: float) -> ServiceUnavailable:
        self._metrics.refused.labels(call.service).inc()
        where = f"{call.method} {call.service}{call.path}"
        if not pool.seats:
            return ServiceUnavailable(
                f"{where}: no instance of {call.service} is registered. Start it, or correct the name or the namespace."
            )
        return ServiceUnavailable(
            f"{where}: the circuit of every instance is open ({', '.join(sorted(s.endpoint.authority for s in pool.seats.values()))}), "
            f"after {pool.failures} failures in a row. The next try is let through in {pool.reopens_in_s(now):.1f} s; "
            "look at that service's log."
        )

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.connections, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),  # instances of a service share no state with a caller
                trace_configs=[self._trace_config] if self._trace_config is not None else [],
                trust_env=False,
            )
        return self._session

    async def _watch(self, service: str) -> _Watched:
        watched = self._watched.get(service)
        if watched is None or watched.task.done():
            settings = self._settings
            pool = Pool(service, settings.failures, settings.reset_s, settings.balancing,
                        retries.RetryBudget(settings.budget_percent))  # fmt: skip
            watched = self._watched[service] = _Watched(self._discovery, pool)
        self._watched.move_to_end(service)
        if len(self._watched) > self._settings.services:
            _, oldest = self._watched.popitem(last=False)
            await oldest.stop()
        await watched.first()
        return watched


class _Watched:
    """One service's pool and the task that keeps it up to date."""

    def __init__(self, discovery: Discovery, pool: Pool) -> None:
        self.pool = pool
        self._ready = asyncio.Event()
        self.task = asyncio.create_task(self._follow(discovery), name=f"nexus-client-watch-{pool.service}")

    async def _follow(self, discovery: Discovery) -> None:
        async for endpoints in discovery.watch(self.pool.service):
            self.pool.update(endpoints)
            self._ready.set()

    async def first(self) -> None:
        """Return when the pool has been filled once. Raises ServiceUnavailable if the watch ended before."""
        if self._ready.is_set():
            return
        waiter = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((waiter, self.task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if not self._ready.is_set():
            error = None if self.task.cancelled() else self.task.exception()
            raise ServiceUnavailable(
                f"{self.pool.service}: discovery ended before it said who is there ({error or 'closed'}). "
                "Make calls before the app has stopped."
            ) from error

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return the body, or None if it is longer than `limit` bytes; never holds more than that and one chunk."""
    parts, size = [], 0
    async for chunk in answer.content.iter_chunked(65_536):
        size += len(chunk)
        if size > limit:
            answer.close()
            return None
        parts.append(chunk)
    return b"".join(parts)
