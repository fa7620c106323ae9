"""Rate limits: the generic cell rate algorithm (ITU-T I.371, annex A.1), one double for each thing that is counted.

The double is the theoretical arrival time (TAT): the second at which all that was let through so far would be through at the limit's rate.
A request passes while `TAT + 1/rate - now <= burst/rate`; so in any `t` seconds at most `burst + rate · t` do.

All workers count in the same cells, without a lock. Two requests in two workers that read the same TAT within some 100 ns of
each other both pass and are counted as one. Measured: two workers that ask every 30 µs, for three times what the limit allows, get
up to 1 % more than it; two that do nothing but ask, in step with each other, 60 %. At worst it comes to the limit times the workers.

Keyed limits hold a table of `KEYS` (fingerprint, TAT) pairs; a key lives in one of `_PROBE` neighbours.
- A TAT that has passed says nothing any more: its place is free. Nothing has to be cleaned up.
- When all neighbours are taken, the one with the oldest TAT goes, which is the one nearest to being free: its key may
  then burst anew. So a flood of more keys than the table holds makes the limit generous to keys, never hard on strangers.
- Two workers that take places for one key at the same instant give it two, until one of them is free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from nexus_core.snapshot import HashKey, RateLimit

from nexus_gateway.resilience.cells import Cells, Slot

KEYS = 4096
_PROBE = 8
_FOUND = 8192
_FOUND_BYTES = 128
"""A longer key is looked up anew each time (1 µs): clients choose keys, and so many long ones would be a quarter of a gigabyte."""

KeyOf = Callable[[Any], bytes]
"""Takes from a request what its limit counts by."""


class Limit:
    """One limit without key: all requests are counted together.

    key: None, so that requests need not be asked. name: of the policy.
    """

    __slots__ = ("__weakref__", "_at", "_burst_s", "_each_s", "_slot", "_view", "key", "policy")

    def __init__(self, policy: RateLimit, slot: Slot, key: KeyOf | None = None) -> None:
        """slot: of one double; `2 * KEYS` for a keyed one."""
        self._slot = slot
        self.key = key
        self.moved()
        self.apply(policy)

    def apply(self, policy: RateLimit) -> None:
        """Take over a changed rate or burst; what was counted stays counted."""
        self.policy = policy
        self._each_s = policy.per_s / max(1, policy.requests)
        # A thousandth of a request more: TAT is a sum with rounding errors, and the last of a burst must not fall to them.
        self._burst_s = self._each_s * ((policy.burst or max(1, policy.requests)) + 1e-3)

    def moved(self) -> None:
        """Look again where the slot is; after `Cells.touch` said that it moved."""
        self._view = self._slot.view
        self._at = self._slot.at

    @property
    def name(self) -> str:
        """The identity of its counters."""
        return self.policy.name

    @property
    def slot(self) -> Slot:
        """Where it counts."""
        return self._slot

    def take(self, key: bytes, now: float) -> float:
        """Return 0.0 and count the request, or the seconds after which one like it would pass. key: ignored."""
        view = self._view
        at = self._at
        tat = view[at]
        if tat < now:
            tat = now
        tat += self._each_s
        if tat - now > self._burst_s:
            return self._refuse(at, tat, now)
        view[at] = tat
        return 0.0

    def _refuse(self, at: int, tat: float, now: float) -> float:
        """Return the wait. A TAT beyond what this limit could have counted is an earlier, lower rate's; it is cut."""
        # Half a request of slack, for the same errors.
        if tat - now > self._burst_s + 1.5 * self._each_s:
            tat = now + self._burst_s + self._each_s
            self._view[at] = now + self._burst_s
        return tat - now - self._burst_s


class KeyedLimit(Limit):
    """One limit for each value of a key."""

    __slots__ = ("_found", "_seed")

    def __init__(self, policy: RateLimit, slot: Slot, key: KeyOf | None = None, seed: int = 0) -> None:
        """seed: the same in all workers, unknown to clients: two keys that share a fingerprint share their allowance."""
        self._found: dict[bytes, tuple[float, int]] = {}
        self._seed = seed.to_bytes(8, "little")
        super().__init__(policy, slot, key)

    def moved(self) -> None:
        super().moved()
        self._found.clear()

    def take(self, key: bytes, now: float) -> float:
        """Return 0.0 and count the request, or the seconds after which one with this key would pass."""
        view = self._view
        found = self._found.get(key)
        # The place is this key's as long as its fingerprint stands there.
        at = found[1] + 1 if found is not None and view[found[1]] == found[0] else self._place(key, now) + 1
        tat = view[at]
        if tat < now:
            tat = now
        tat += self._each_s
        if tat - now > self._burst_s:
            return self._refuse(at, tat, now)
        view[at] = tat
        return 0.0

    def _place(self, key: bytes, now: float) -> int:
        """Return where the key is counted: where it was, else a free place, else the oldest one's."""
        hashed = int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._seed).digest(), "little")
        fingerprint = float(
            hashed >> 11 | 1
        )  # as many bits as a double holds; never 0, which is a place that nobody had
        view = self._view
        oldest = -1
        for step in range(_PROBE):
            at = self._at + (hashed + step) % KEYS * 2
            if view[at] == fingerprint:
                break
            if oldest < 0 or view[at + 1] < view[oldest + 1]:
                oldest = at
        else:
            at = oldest
            view[at + 1] = now
            view[at] = fingerprint
        if len(key) <= _FOUND_BYTES:
            if len(self._found) >= _FOUND:
                self._found.clear()
            self._found[key] = (fingerprint, at)
        return at


class Limits:
    """All rate limits of one gateway, by name: the same counters through every change of the Snapshot."""

    def __init__(self, cells: Cells, build_key: Callable[[tuple[HashKey, ...]], KeyOf] | None = None) -> None:
        """build_key: makes what takes a policy's key from a request; needed for limits that have one."""
        self._cells = cells
        self._build_key = build_key
        self._limits: WeakValueDictionary[str, Limit] = WeakValueDictionary()

    def get(self, policy: RateLimit, now: float = 0.0) -> Limit:
        """Return the limit of that name, under the policy of now. It is known here as long as somebody holds it; its counters
        outlive it in their cells. Raises `ValueError` for a keyed policy when there is no `build_key`."""
        limit = self._limits.get(policy.name)
        if limit is None or limit.policy.key != policy.key:
            limit = self._make(policy, now)
            self._limits[policy.name] = limit
        elif limit.policy != policy:
            limit.apply(policy)
        return limit

    def _make(self, policy: RateLimit, now: float) -> Limit:
        if not policy.key:
            return Limit(policy, self._cells.slot(f"limit/{policy.name}", 1, now))
        if self._build_key is None:
            raise ValueError(f"rate limit {policy.name} has a key, and nothing that takes keys from requests")
        # The key's parts belong to the identity: counts of addresses say nothing of header values.
        parts = ",".join(f"{part.kind}:{part.name}" for part in policy.key)
        slot = self._cells.slot(f"limit/{policy.name}/{parts}", 2 * KEYS, now)
        return KeyedLimit(policy, slot, self._build_key(policy.key), self._cells.seed)

    def touch(self, now: float) -> None:
        """Keep the counters of the limits in use from being swept. Called now and then."""
        limits = list(self._limits.values())
        moved = set(self._cells.touch([limit.slot for limit in limits], now))
        for limit in limits:
            if limit.slot in moved:
                limit.moved()
