"""A store in Redis that all gateways share. While Redis is down there is nothing in it, and nothing fails.

<prefix>:u:<digest of URL>    hash: id of each of its entries -> what it is for
<prefix>:e:<id>               one entry
<prefix>:t:<digest of tag>    set: ids of the entries with it
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nexus_sdk.plugin import RequestHead
from redis.exceptions import RedisError

from .directives import values
from .entries import Entry, pack, unpack

T = TypeVar("T")

_VARIANTS = 64
_PAUSE_S = 1.0
"""How long Redis is left alone after it failed: requests must not wait for it one by one."""


class Shared:
    """Entries in Redis. kept_s: longest that anything in it can be of use. clock: seconds, for pauses."""

    def __init__(
        self, client: Any, prefix: str, timeout_s: float, kept_s: float, clock: Callable[[], float], log: logging.Logger
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._kept_ms = int(kept_s * 1000)
        self._clock = clock
        self._log = log
        self._down_until = -math.inf
        self._is_down = False

    async def find(self, url: str, request: RequestHead, now: float) -> Entry | None:
        """Return the newest response that the request chooses, fresh or stale; None when there is none, or Redis is down."""
        return await self._try(lambda: self._find(url, request, now), None)

    async def put(self, entry: Entry) -> None:
        """Store an entry in place of the one for the same requests."""
        await self._try(lambda: self._put(entry), None)

    async def drop_url(self, url: str) -> int:
        """Remove all responses of a URL; return how many there were."""
        return await self._try(lambda: self._drop(self._name("u", url), is_hash=True), 0)

    async def drop_tag(self, tag: str) -> int:
        """Remove all responses with a tag; return how many there were."""
        return await self._try(lambda: self._drop(self._name("t", tag), is_hash=False), 0)

    async def drop_all(self) -> int:
        """Remove everything; return how many responses there were. Takes a while: Redis goes on meanwhile."""
        return await self._try(self._drop_all, 0)

    @property
    def is_down(self) -> bool:
        """Whether the last call failed."""
        return self._is_down

    async def _try(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if self._clock() < self._down_until:
            return otherwise
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await work()
        except (RedisError, OSError, TimeoutError) as error:
            self._down_until = self._clock() + _PAUSE_S
            if not self._is_down:
                self._is_down = True
                self._log.warning(
                    "Redis is not available (%s: %s): responses come from the services.", type(error).__name__, error
                )
            return otherwise
        if self._is_down:
            self._is_down = False
            self._log.info("Redis is available again.")
        return result

    async def _find(self, url: str, request: RequestHead, now: float) -> Entry | None:
        known = await self._client.hgetall(self._name("u", url))
        fitting = [name for name, text in known.items() if _is_for(text, request)]
        if not fitting:
            return None
        best: Entry | None = None
        for data in await self._client.mget([self._entry(name.decode()) for name in fitting]):
            entry = unpack(data) if data is not None else None
            # A digest of another URL: the key says which, the entry says which it is.
            if (
                entry is not None
                and entry.url == url
                and entry.is_for(request)
                and (best is None or entry.at > best.at)
            ):
                best = entry
        return best if best is None or now - best.at <= best.kept_s else None

    async def _put(self, entry: Entry) -> None:
        key, name = entry.id, self._name("u", entry.url)
        lasting_ms = max(1, min(int(entry.kept_s * 1000), self._kept_ms))
        pipe = self._client.pipeline(transaction=False)
        if await self._client.hlen(name) >= _VARIANTS:
            pipe.unlink(name)
        pipe.set(self._entry(key), pack(entry), px=lasting_ms)
        pipe.hset(name, key, json.dumps([entry.route, entry.vary]))
        pipe.pexpire(name, self._kept_ms)
        for tag in entry.tags:
            pipe.sadd(self._name("t", tag), key)
            pipe.pexpire(self._name("t", tag), self._kept_ms)
        await pipe.execute()

    async def _drop(self, name: str, *, is_hash: bool) -> int:
        keys = await (self._client.hkeys(name) if is_hash else self._client.smembers(name))
        if not keys:
            return 0
        pipe = self._client.pipeline(transaction=False)
        pipe.unlink(*[self._entry(key.decode()) for key in keys])
        pipe.unlink(name)
        return int((await pipe.execute())[0])

    async def _drop_all(self) -> int:
        dropped = 0
        batch: list[bytes] = []
        async for key in self._client.scan_iter(self._prefix + ":*", count=1000):
            batch.append(key)
            dropped += key.startswith(f"{self._prefix}:e:".encode())
            if len(batch) >= 1000:
                await self._client.unlink(*batch)
                batch.clear()
        if batch:
            await self._client.unlink(*batch)
        return dropped

    def _name(self, kind: str, text: str) -> str:
        return f"{self._prefix}:{kind}:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"

    def _entry(self, key: str) -> str:
        return f"{self._prefix}:e:{key}"


def _is_for(text: bytes, request: RequestHead) -> bool:
    """Return whether what is said of an entry is of one that the request chooses."""
    try:
        route, vary = json.loads(text)
        return route == request.route and all(values(request.headers, name).strip() == value for name, value in vary)
    except (ValueError, TypeError):
        return False
