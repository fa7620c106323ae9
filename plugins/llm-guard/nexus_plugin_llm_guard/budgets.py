"""How many tokens each consumer has left: counted in fixed windows, in this process or in Redis.

What a request will take is taken beforehand, by estimate; when it is over, the difference to what it took is settled.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_MAX_COUNTERS = 100_000


@dataclass(frozen=True, slots=True)
class Window:
    """So many tokens in so many seconds, counted from the epoch. own: of single consumers, by name."""

    seconds: int
    tokens: int
    own: Mapping[str, int]

    def limit(self, consumer: str) -> int:
        """Return a consumer's tokens."""
        return self.own.get(consumer, self.tokens)


@dataclass(frozen=True, slots=True)
class Taken:
    """Tokens that were taken beforehand. left: the fewest that any window has left after. counters: where they are counted."""

    tokens: int
    left: int
    counters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """There are not enough. window: that lacks them; left: that it has; wait_s: until it begins anew."""

    window: Window
    left: int
    wait_s: int


class Store(Protocol):
    """Where counters are kept."""

    async def take(self, counters: Sequence[tuple[str, int, int]], tokens: int) -> tuple[int, list[int]]:
        """Add to all counters, or to none. counters: name, limit, seconds to keep it. Return the index of the first that would go
        beyond its limit, -1 for none, and what is in each.
        """
        ...

    async def add(self, counters: Sequence[str], tokens: int) -> None:
        """Add to counters that are still there; negative gives back."""
        ...


class Budgets:
    """The windows of one plugin."""

    def __init__(self, windows: Sequence[Window], store: Store) -> None:
        self._windows = windows
        self._store = store

    async def take(self, consumer: str, tokens: int, now: float) -> Taken | Refused:
        """Take tokens for a request. now: Unix seconds."""
        name = hashlib.sha256(consumer.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        counters = [
            (f"{name}:{window.seconds}:{int(now // window.seconds)}", window.limit(consumer), window.seconds + 60)
            for window in self._windows
        ]
        if not counters:
            return Taken(tokens, 0, ())
        refused, used = await self._store.take(counters, tokens)
        left = [limit - count for (_, limit, _), count in zip(counters, used, strict=True)]
        if refused >= 0:
            window = self._windows[refused]
            return Refused(window, max(left[refused], 0), max(int(window.seconds - now % window.seconds), 1))
        return Taken(tokens, max(min(left), 0), tuple(name for name, _, _ in counters))

    async def settle(self, taken: Taken, tokens: int) -> None:
        """Count what a request really took in place of what was taken for it."""
        if taken.counters and tokens != taken.tokens:
            await self._store.add(taken.counters, tokens - taken.tokens)


class Memory:
    """Counters of this process, the latest used; at most 100,000."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def take(self, counters: Sequence[tuple[str, int, int]], tokens: int) -> tuple[int, list[int]]:
        """As `Store`."""
        counts = [self._counts.get(name, 0) for name, _, _ in counters]
        for index, (_, limit, _) in enumerate(counters):
            if counts[index] + tokens > limit:
                return index, counts
        for (name, _, _), count in zip(counters, counts, strict=True):
            self._counts[name] = count + tokens
            self._counts.move_to_end(name)
        while len(self._counts) > _MAX_COUNTERS:
            self._counts.popitem(last=False)
        return -1, [count + tokens for count in counts]

    async def add(self, counters: Sequence[str], tokens: int) -> None:
        """As `Store`."""
        for name in counters:
            if name in self._counts:
                self._counts[name] = max(self._counts[name] + tokens, 0)


_TAKE = """
local refused, counts = -1, {}
for i, key in ipairs(KEYS) do
  counts[i] = tonumber(redis.call('GET', key) or '0')
  if refused < 0 and counts[i] + tonumber(ARGV[1]) > tonumber(ARGV[i * 2]) then refused = i - 1 end
end
if refused < 0 then
  for i, key in ipairs(KEYS) do
    counts[i] = redis.call('INCRBY', key, ARGV[1])
    redis.call('EXPIRE', key, ARGV[i * 2 + 1])
  end
end
return {refused, unpack(counts)}
"""
_ADD = "for _, key in ipairs(KEYS) do if redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, ARGV[1]) end end"


class InRedis:
    """Counters that all gateways share. Each step is one script: taken from all of them, or from none."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], prefix: str) -> None:
        self._connect = connect
        self._prefix = prefix

    async def take(self, counters: Sequence[tuple[str, int, int]], tokens: int) -> tuple[int, list[int]]:
        """As `Store`."""
        client = await self._connect()
        arguments = [str(each) for _, limit, keep_s in counters for each in (limit, keep_s)]
        refused, *counts = await client.eval(
            _TAKE, len(counters), *(self._key(name) for name, _, _ in counters), tokens, *arguments
        )
        return int(refused), [int(count) for count in counts]

    async def add(self, counters: Sequence[str], tokens: int) -> None:
        """As `Store`."""
        client = await self._connect()
        await client.eval(_ADD, len(counters), *map(self._key, counters), tokens)

    def _key(self, name: str) -> str:
        # One hash slot for a consumer's windows, as Redis Cluster wants it of a script's keys.
        consumer, _, rest = name.partition(":")
        return f"{self._prefix}:{{{consumer}}}:{rest}"
