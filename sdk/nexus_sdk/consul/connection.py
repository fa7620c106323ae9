"""The one place that speaks HTTP with Consul: py-consul, its errors converted, its calls bounded.

py-consul knows the API; the transport below it is ours, because its own (`consul.aio`) passes arguments that aiohttp has
deprecated, makes a TLS context also for plain HTTP, and reads answers of any size. Health queries use the transport and
not `health.service`, which knows neither `stale` nor a timeout for one call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
from consul import ConsulException, base
from yarl import URL

T = TypeVar("T")
CALL_S = 5.0
"""Bound of every call that is not a blocking query."""
CONNECTIONS = 1024
"""One per watched service; aiohttp's default of 100 would starve the 101st watch."""
LARGEST_BYTES = 32 * 1024 * 1024
"""A thousand instances of one service take about 1 MiB."""


class ConsulAway(ConnectionError):
    """Consul does not answer, or not as Consul. Environment's, retryable."""


class ConsulRefused(ConnectionError):
    """Consul answered and said no (4xx other than 404, such as a missing ACL). Environment's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One read. index: X-Consul-Index, 0 if absent. known_leader: False while the servers have none."""

    index: int
    known_leader: bool
    document: Any


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: str


def _raw(response: Any) -> _Reply:
    return _Reply(response.code, response.headers, response.body)


class _Transport(base.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """py-consul's port for HTTP, on aiohttp."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # A connection for each call: on a reused one aiohttp repeats a broken GET by itself, so a blocking query would go
        # on, with its old index, at a Consul that has restarted meanwhile, and see no change until it has waited in full.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, force_close=True), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def _request(
        self, callback: Callable[[Any], T], method: str, path: str, params: Any = None, data: str | bytes = b"",
        headers: dict[str, str] | None = None, connections_timeout: float = CALL_S, **_: Any,
    ) -> T:  # fmt: skip
        timeout = aiohttp.ClientTimeout(total=connections_timeout)
        # Encoded by py-consul; yarl would decode a %2F of a service's name again.
        url = URL(self.uri(path, params), encoded=True)
        async with self._session.request(
            method, url, headers=headers, data=data or None, timeout=timeout, allow_redirects=False
        ) as answer:
            body = await answer.content.read(LARGEST_BYTES + 1)
            while not answer.content.at_eof() and len(body) <= LARGEST_BYTES:
                body += await answer.content.read(LARGEST_BYTES + 1 - len(body))
            if len(body) > LARGEST_BYTES:
                raise ConsulException(f"the answer is larger than {LARGEST_BYTES} bytes")
            return callback(base.Response(answer.status, answer.headers, body.decode()))

    def get(self, callback: Callable[[Any], T], path: str, **more: Any) -> Awaitable[T]:
        return self._request(callback, "GET", path, **more)

    def put(self, callback: Callable[[Any], T], path: str, **more: Any) -> Awaitable[T]:
        return self._request(callback, "PUT", path, **more)

    def delete(self, callback: Callable[[Any], T], path: str, **more: Any) -> Awaitable[T]:
        return self._request(callback, "DELETE", path, **more)

    def post(self, callback: Callable[[Any], T], path: str, **more: Any) -> Awaitable[T]:
        return self._request(callback, "POST", path, **more)

    def close(self) -> Awaitable[None]:
        return self._session.close()


class _Client(base.Consul):  # type: ignore[misc]  # py-consul has no types
    def http_connect(self, host: str, port: int, scheme: str, verify: Any = True, cert: Any = None) -> _Transport:
        return _Transport(host, port, scheme, verify, cert)


class Connection:
    """A client of one Consul agent. Made outside of an event loop, used in one; `close` it there."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """url: `http(s)://host:port`."""
        self.url, self._token = url, token
        self._client: Any = None

    @property
    def client(self) -> Any:
        """py-consul's client; connects with the first call."""
        if self._client is None:
            parts = urlsplit(self.url)
            host = parts.hostname or ""
            self._client = _Client(
                host=f"[{host}]" if ":" in host else host,
                port=parts.port or (443 if parts.scheme == "https" else 8500),
                scheme=parts.scheme,
            )
            self._client.token = self._token  # py-consul lets CONSUL_HTTP_TOKEN win over what it is given
        return self._client

    async def read(self, path: str, params: Mapping[str, str], within_s: float = CALL_S) -> Answer:
        """GET a path (its parts unquoted). Raises ConsulAway, ConsulRefused."""
        client = self.client
        reply: _Reply = await self.call(
            client.http.get(
                _raw, path, params=list(params.items()), headers=client.prepare_headers(), connections_timeout=within_s
            ),
            within_s + 1,
            f"GET {quote(path)}",
        )
        if 400 <= reply.status < 500:
            raise ConsulRefused(
                f"Consul at {self.url}: GET {path}: {reply.status} {reply.body[:200].strip()}. Check NEXUS_CONSUL_TOKEN's rights."
            )
        if reply.status != 200:
            raise ConsulAway(f"Consul at {self.url}: GET {path}: {reply.status} {reply.body[:200].strip()}")
        try:
            index, document = int(reply.headers.get("X-Consul-Index", "0")), json.loads(reply.body)
        except ValueError as error:
            raise ConsulAway(
                f"Consul at {self.url}: GET {path}: not an answer of Consul ({error}). Check NEXUS_CONSUL_URL."
            ) from error
        return Answer(index, reply.headers.get("X-Consul-KnownLeader", "true") != "false", document)

    async def call(self, work: Awaitable[T], within_s: float = CALL_S, what: str = "call") -> T:
        """Await one call of `client`, bounded. Raises ConsulAway, ConsulRefused (its ACL or syntax errors)."""
        try:
            async with asyncio.timeout(within_s):
                return await work
        except TimeoutError as error:
            raise ConsulAway(f"Consul at {self.url}: {what}: no answer within {within_s:g} s") from error
        except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
            raise ConsulAway(f"Consul at {self.url}: {what}: {error or type(error).__name__}") from error
        except ConsulException as error:
            raise ConsulRefused(f"Consul at {self.url}: {what}: {type(error).__name__} {str(error)[:200]}") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # py-consul takes answers apart as they come: one of another shape (a proxy's, a broken agent's) ends there.
            raise ConsulAway(
                f"Consul at {self.url}: {what}: not an answer of Consul ({type(error).__name__}: {str(error)[:200]}). "
                "Check the address."
            ) from error

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.http.close()
