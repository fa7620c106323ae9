"""What balancers see of an endpoint, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """An endpoint that may take an attempt. weight: 1 or more. active: attempts running on it now."""

    @property
    def authority(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def active(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class Balancer(Protocol):
    """Picks endpoints of one upstream."""

    def pick(self, candidates: Sequence[C]) -> C:
        """Return the endpoint that takes the next attempt.

        candidates: one or more, not modified. Handing in the same object again while nothing changed is cheapest.
        """
        ...
