"""The endpoints of one service as the client sees them: who is there, how busy, whose circuit is open. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from nexus_core.discovery import Endpoint

from nexus_sdk.client.breakers import Breaker, Permit
from nexus_sdk.client.retries import RetryBudget

Balancing = Literal["least-request", "round-robin"]


@dataclass(slots=True, eq=False)
class Seat:
    """One endpoint with its state. active: attempts on the way."""

    endpoint: Endpoint
    breaker: Breaker
    active: int = 0


@dataclass(slots=True)
class Pool:
    """The seats of one service. State is kept by (address, port) and survives changes of the set around it."""

    service: str
    failures: int = 5
    reset_s: float = 10.0
    balancing: Balancing = "least-request"
    budget: RetryBudget = field(default_factory=RetryBudget)
    seats: dict[tuple[str, int], Seat] = field(default_factory=dict)
    _turn: int = 0

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Make `endpoints` the set, without those that drain; known ones keep their breaker and count."""
        seats: dict[tuple[str, int], Seat] = {}
        for endpoint in endpoints:
            if endpoint.draining:
                continue
            key = (endpoint.address, endpoint.port)
            seat = self.seats.get(key) or Seat(endpoint, Breaker(self.failures, self.reset_s))
            seat.endpoint = endpoint
            seats[key] = seat
        self.seats = seats

    def pick(self, tried: frozenset[tuple[str, int]], now: float, rng: random.Random) -> tuple[Seat, Permit] | None:
        """Return the seat for the next attempt and its permit; None if every circuit is open or nobody is there.

        tried: endpoints of earlier attempts of the same call, taken again only if no other is available.
        Least request: the less loaded of two at random, load divided by weight (Mitzenmacher 2001).
        """
        available = [seat for seat in self.seats.values() if seat.breaker.is_available(now)]
        fresh = [seat for seat in available if (seat.endpoint.address, seat.endpoint.port) not in tried]
        candidates = fresh or available
        if not candidates:
            return None
        if self.balancing == "round-robin":
            seat = candidates[self._turn % len(candidates)]
            self._turn += 1
        elif len(candidates) == 1:
            seat = candidates[0]
        else:
            first, second = rng.sample(candidates, 2)
            seat = min(first, second, key=lambda s: (s.active + 1) / s.endpoint.weight)
        permit = seat.breaker.allow(now)
        return None if permit is None else (seat, permit)

    def count_open(self) -> int:
        """Return how many endpoints have a circuit that is not closed."""
        return sum(seat.breaker.state != "closed" for seat in self.seats.values())

    def reopens_in_s(self, now: float) -> float:
        """Return the seconds until the first open circuit lets a probe pass."""
        return min((seat.breaker.reopens_in_s(now) for seat in self.seats.values()), default=0.0)
