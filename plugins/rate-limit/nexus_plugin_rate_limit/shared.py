"""Limits that all gateways share, in Redis: one script, so that nothing comes between reading and writing. Redis' clock counts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from .gcra import Standing
from .tables import Asked

# KEYS: one for each limit. ARGV: for each, interval in microseconds, burst, cost.
# Returns 1 if all may pass, and for each, in microseconds, how far it is ahead and how long it has to wait.
# A key lives as long as it says something: one that has caught up with now is like one that is not there.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local passes = 1
local after, found = {}, {}
for i, key in ipairs(KEYS) do
  local interval, burst, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local ahead = math.max((tonumber(redis.call('GET', key)) or 0) - now, 0)
  local over = ahead + interval * cost - interval * burst
  after[i] = ahead + interval * cost
  found[2 * i - 1] = ahead
  found[2 * i] = math.ceil(over)
  if over > 0.5 then passes = 0 else found[2 * i] = 0 end
end
if passes == 1 then
  for i, key in ipairs(KEYS) do
    found[2 * i - 1] = after[i]
    if after[i] > 0 then
      redis.call('SET', key, string.format('%.0f', now + after[i]), 'PX', math.ceil(after[i] / 1000) + 1)
    end
  end
end
for i = 1, #found do found[i] = math.ceil(found[i]) end
return {passes, unpack(found)}
"""


class SharedUnavailable(Exception):
    """Redis did not answer in time, or with an error. The text says which."""


class Shared:
    """Keys in Redis. prefix: of their names. timeout_s: after which Redis counts as down."""

    __slots__ = ("_prefix", "_script", "_timeout_s")

    def __init__(self, client: Any, prefix: str, timeout_s: float) -> None:
        self._script = client.register_script(SCRIPT)
        self._prefix = prefix
        self._timeout_s = timeout_s

    async def take(self, asked: Sequence[Asked]) -> list[Standing]:
        """Return where each key stands. If one has to wait, none is charged. Raises SharedUnavailable."""
        arguments: list[str] = []
        for each in asked:
            arguments += [f"{each.limit.interval_s * 1e6:.6f}", str(each.limit.burst), str(each.cost)]
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._script(keys=[self._name(each) for each in asked], args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise SharedUnavailable(f"{type(error).__name__}: {error}") from error
        return [
            Standing(each.limit, int(found[2 * index + 1]) / 1e6, int(found[2 * index + 2]) / 1e6)
            for index, each in enumerate(asked)
        ]

    def _name(self, asked: Asked) -> str:
        """Return a key's name: what clients send is hashed, so that it is bounded and cannot reach other keys.

        The braces put all keys of one plugin into one slot of a Redis cluster: a script may only use keys of one.
        """
        digest = hashlib.sha256(repr(asked.key).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return f"{{{self._prefix}}}:{digest}"
