"""Deliveries over HTTP: to a URL with a session of our own, to a service by the app's resilient client."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from nexus_sdk import NexusError, ServiceClient
from yarl import URL

from nexus_events.ports import Outcome
from nexus_events.subscriptions import Sink, SinkRules
from nexus_events.verdicts import parse_retry_after

CONNECT_S = 2.0
SHOWN_BYTES = 512
"""Of a failing answer's body, kept in the cause: subscribers say there what they dislike."""


class AddressDenied(OSError):
    """A name resolved only to addresses that sinks may not lead to."""


class _GuardedResolver(AbstractResolver):
    """Resolves names and drops denied addresses, at every connection: a name that is harmless when the subscription is
    made may point elsewhere later (DNS rebinding)."""

    def __init__(self, rules: SinkRules) -> None:
        self._rules, self._inner = rules, ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if not self._rules.is_address_denied(result["host"])]
        if not allowed:
            raise AddressDenied(errno.EACCES, f"{host} leads to a network that sinks may not lead to")
        return allowed

    async def close(self) -> None:
        await self._inner.close()


class HttpCourier:
    """Keeps connections alive between deliveries; follows no redirects. clock: Unix seconds, for dates in Retry-After."""

    def __init__(self, client: ServiceClient, rules: SinkRules, clock: Callable[[], float]) -> None:
        self._client, self._rules, self._clock = client, rules, clock
        self._session: aiohttp.ClientSession | None = None

    async def hand_over(self, sink: Sink, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Outcome:
        try:
            async with asyncio.timeout(timeout_s):
                return await (
                    self._to_url(sink.url, headers, body)
                    if sink.url
                    else self._to_service(sink, headers, body, timeout_s)
                )
        except TimeoutError:
            return Outcome(0, f"no answer from {sink} within {timeout_s:g} s")
        except NexusError as error:
            return Outcome(0, str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(0, f"{sink}: {error or type(error).__name__}")

    async def _to_service(self, sink: Sink, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Outcome:
        # At-least-once anyway, so the client may repeat an attempt on another instance.
        answer = await self._client.request(
            "POST",
            sink.service,
            sink.path,
            data=body,
            headers=headers,
            deadline_s=timeout_s,
            try_timeout_s=timeout_s,
            idempotent=True,
        )
        return self._outcome(answer.status, answer.headers, answer.body[:SHOWN_BYTES])

    async def _to_url(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        target = URL(url)
        # The rules may have changed since the subscription was stored. They judge what is really connected to: aiohttp's
        # reading of the URL, in which `169。254。169。254` is an address.
        if refusal := self._rules.refusal_of_host(target.raw_host or ""):
            return Outcome(0, refusal)
        skipped = () if "content-type" in headers else ("content-type",)
        async with self._get_session().post(
            target, data=body, headers=headers, allow_redirects=False, skip_auto_headers=skipped
        ) as answer:
            seen = b""
            async for chunk in answer.content.iter_chunked(SHOWN_BYTES):
                seen += chunk
                if len(seen) >= SHOWN_BYTES:
                    break  # the connection is closed with what it still holds: no subscriber decides our memory
            return self._outcome(answer.status, answer.headers, seen[:SHOWN_BYTES])

    def _outcome(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        if 200 <= status < 300:
            return Outcome(status)
        text = " ".join(body.decode("utf-8", "replace").split())
        why = f"status {status}" + (f": {text}" if text else "")
        return Outcome(status, why, parse_retry_after(headers.get("retry-after"), self._clock()))

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            options: dict[str, Any] = {"resolver": _GuardedResolver(self._rules)}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=30, **options),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
