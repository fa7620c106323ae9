"""A small asynchronous client of the Kubernetes API for the kubelet and the load balancer.

JSON in, JSON out, and a list-then-watch that outlives the API server: it reconnects for ever and reports a full list
after every gap. Knows no kinds.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from nexus_testbed import places

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

Object = dict[str, Any]

# A watch gets a bookmark about every minute; longer silence means that the connection is dead.
WATCH_SILENCE_S = 100.0
WATCH_LINE_BYTES = 8 * 2**20
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 1.0


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class ApiUnavailable(Exception):
    """The API server did not answer (environment's, retryable)."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything there is now: what is not in it, is gone."""

    items: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """One object was added or modified, or `deleted` (then it is its last state)."""

    item: Object
    deleted: bool


class Api:
    """Client with the certificate `pki/<identity>.crt`. Use as an async context manager."""

    def __init__(self, where: places.Places, identity: str) -> None:
        self._context = ssl.create_default_context(cafile=str(where.pki / "ca.crt"))
        self._context.load_cert_chain(where.pki / f"{identity}.crt", where.pki / f"{identity}.key")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context, limit=64),
            timeout=aiohttp.ClientTimeout(total=15, connect=5),
            read_bufsize=WATCH_LINE_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Object:
        """Send one request and return the answer. Raises ApiError for 4xx/5xx, ApiUnavailable if there is no answer."""
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(
                method, places.API_URL + path, data=data, headers={"Content-Type": content_type}
            ) as response:
                answer = json.loads(await response.read())
                if response.status >= 400:
                    raise ApiError(response.status, answer.get("message", ""))
                return answer if isinstance(answer, dict) else {}
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as err:
            raise ApiUnavailable(f"{method} {path}: {err or type(err).__name__}") from err

    async def request_until_answered(
        self, method: str, path: str, body: object = None, content_type: str = JSON
    ) -> Object:
        """Like `request`, but waits for the API server as long as it takes (also through its 429 and 5xx)."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                return await self.request(method, path, body, content_type)
            except ApiUnavailable:
                pass
            except ApiError as err:
                if err.status != 429 and err.status < 500:
                    raise
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def watch(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[Listed | Changed]:
        """Yield `Listed` first and after every gap, `Changed` in between, for ever."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                async for event in self._watch_once(path, dict(params or {})):
                    delay_s = RETRY_FIRST_S
                    yield event
            except (aiohttp.ClientError, TimeoutError, ApiUnavailable, json.JSONDecodeError, ValueError):
                pass  # the API server is away, or the connection broke in the middle of a line
            except ApiError as err:
                # 401/403 happen while a starting API server has not read its roles yet; 410 asks for a new list.
                if err.status not in (401, 403, 404, 410, 429) and err.status < 500:
                    raise
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _watch_once(self, path: str, params: dict[str, str]) -> AsyncIterator[Listed | Changed]:
        query = "&".join(f"{key}={value}" for key, value in params.items())
        listed = await self.request("GET", f"{path}?{query}")
        # Items of a list carry neither apiVersion nor kind.
        yield Listed(tuple(listed["items"] or ()))
        params = {
            **params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": listed["metadata"]["resourceVersion"],
        }
        query = "&".join(f"{key}={value}" for key, value in params.items())
        timeout = aiohttp.ClientTimeout(total=None, connect=5, sock_read=WATCH_SILENCE_S)
        async with self._session.get(f"{places.API_URL}{path}?{query}", timeout=timeout) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            async for line in response.content:
                event = json.loads(line)
                match event["type"]:
                    case "ADDED" | "MODIFIED":
                        yield Changed(event["object"], deleted=False)
                    case "DELETED":
                        yield Changed(event["object"], deleted=True)
                    case "ERROR":
                        raise ApiError(int(event["object"].get("code", 500)), event["object"].get("message", ""))
