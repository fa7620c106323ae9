"""The plugin: charges each request to its keys, answers 429 when one of them has to wait, and tells clients where they stand.

Without Redis each worker lets its share pass and decides at once. With Redis all gateways share the limits; while Redis is down each
worker goes on with its share.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nexus_sdk.plugin import Headers, Plugin, Reply, RequestHead, ResponseHead

from .gcra import Limit, Standing
from .keys import Keys
from .tables import Asked, Table

if TYPE_CHECKING:
    from .shared import Shared, SharedUnavailable

_PAUSE_S = 1.0
"""How long Redis is left alone after it failed: requests must not wait for it one by one."""


class Rule:
    """One limit as configured: what it counts by, and what a request costs."""

    __slots__ = ("_cost", "_cost_header", "_keys", "limit", "share")

    def __init__(self, config: Mapping[str, Any], index: int, workers: int, ipv6_prefix: int) -> None:
        name = str(config.get("name") or f"limit-{index + 1}")
        requests = int(config["requests"])
        self.limit = Limit(name, requests, float(config["perSeconds"]), int(config.get("burst") or requests))
        self.share = self.limit.share(workers)
        self._keys = Keys(name, config.get("by", ["client-ip"]), ipv6_prefix, f"config.limits[{index}].by")
        self._cost = int(config.get("cost", 1))
        self._cost_header = str(config.get("costHeader", "")).lower()

    def ask(self, request: RequestHead, *, whole: bool) -> Asked:
        """Return what a request asks of this limit. whole: of what all gateways share, else of this worker's part.

        What costs more than the burst could never pass; it costs the burst.
        """
        limit = self.limit if whole else self.share
        cost = self._cost
        if self._cost_header:
            text = request.header(self._cost_header)
            if text is not None and text.isascii() and text.isdigit():
                cost = int(text[:9])
        return Asked(limit, self._keys.of(request), min(cost, limit.burst))


class RateLimit(Plugin):
    """Bounds how many requests pass."""

    clock: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds; tests set their own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        prefix = int(config["ipv6Prefix"])
        self._rules = tuple(
            Rule(limit, index, self.context.workers, prefix) for index, limit in enumerate(config["limits"])
        )  # fmt: skip
        self._tell = bool(config["headers"])
        self._status = int(config["status"])
        self._policy = ", ".join(
            f'"{rule.limit.name}";q={rule.limit.requests};w={math.ceil(rule.limit.window_s)}' for rule in self._rules
        )
        self._own = Table(int(config["maxKeys"]))
        self._redis: Mapping[str, Any] = config["redis"]
        # What Redis said last, for the headers of responses. Without Redis the worker's own table is asked.
        self._said = Table(int(config["maxKeys"])) if self._redis.get("url") else self._own
        self._shared: Shared | None = None
        self._unavailable: type[SharedUnavailable] | None = None
        self._down_until = -math.inf
        self._is_down = False

    async def start(self) -> None:
        """Get the connection to Redis, where there is one. It is made with the first request."""
        url = self._redis.get("url")
        if not url:
            return
        # Here, so that the client's library is loaded only where Redis is used.
        from .shared import Shared, SharedUnavailable

        self._unavailable = SharedUnavailable
        prefix = self._redis.get("prefix") or f"nexus:rate-limit:{self.context.plugin}"
        self._shared = Shared(await self.context.redis(url), prefix, float(self._redis.get("timeoutSeconds", 0.1)))

    def on_request(self, request: RequestHead) -> RequestHead | Reply | Coroutine[Any, Any, RequestHead | Reply]:
        """Return the request, or 429 when one of its keys has to wait."""
        shared, now = self._shared, self.clock()
        if shared is not None and now >= self._down_until:
            return self._ask_redis(shared, request)
        return self._ask_here(request, now)

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the response with where its keys stand now."""
        if not self._tell:
            return response
        now = self.clock()
        whole = self._shared is not None and not self._is_down
        table = self._said if whole else self._own
        standings = [table.look(rule.ask(request, whole=whole), now) for rule in self._rules]
        return response.with_headers((*response.headers, *self._headers(standings)))

    def _ask_here(self, request: RequestHead, now: float) -> RequestHead | Reply:
        asked = [rule.ask(request, whole=False) for rule in self._rules]
        return self._judge(request, self._own.take(asked, now))

    async def _ask_redis(self, shared: Shared, request: RequestHead) -> RequestHead | Reply:
        assert self._unavailable is not None
        asked = [rule.ask(request, whole=True) for rule in self._rules]
        try:
            standings = await shared.take(asked)
        except self._unavailable as error:
            self._down_until = self.clock() + _PAUSE_S
            if not self._is_down:
                self._is_down = True
                self.context.log.warning(
                    "Redis is not available (%s): each worker goes on with its share of the limits.", error
                )
            return self._ask_here(request, self.clock())
        if self._is_down:
            self._is_down = False
            self.context.log.info("Redis is available again: the limits are shared.")
        now = self.clock()
        for each, standing in zip(asked, standings, strict=True):
            self._said.put(each.key, standing, now)
        return self._judge(request, standings)

    def _judge(self, request: RequestHead, standings: Sequence[Standing]) -> RequestHead | Reply:
        wait_s = max(each.wait_s for each in standings)
        if not wait_s:
            return request
        problem: dict[str, Any] = {
            "type": "about:blank", "title": "Too many requests", "status": self._status, "reason": "RateLimited",
            "detail": f"Try again in {math.ceil(wait_s)} s.",
        }  # fmt: skip
        request_id = request.header("x-request-id")
        if request_id:
            problem["request_id"] = request_id
        headers: Headers = (
            ("content-type", "application/problem+json"),
            ("cache-control", "no-store"),
            ("retry-after", str(math.ceil(wait_s))),
        )
        if self._tell:
            headers += self._headers(standings)
        return Reply(self._status, headers, json.dumps(problem).encode())

    def _headers(self, standings: Sequence[Standing]) -> Headers:
        """Return what draft-ietf-httpapi-ratelimit-headers-10 has for where a client stands."""
        limit = ", ".join([f'"{each.limit.name}";r={each.remaining};t={each.reset_s}' for each in standings])
        return ("ratelimit-policy", self._policy), ("ratelimit", limit)
