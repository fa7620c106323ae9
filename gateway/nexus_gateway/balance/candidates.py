"""What balancers see of an endpoint, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """An endpoint that may take an attempt.

    authority: `address:port`, its identity for hashing. share: effective weight, above 0; 1.0 is an ordinary endpoint.
    active: attempts running on it now. ewma_s, ewma_at: smoothed response time in seconds (0.0: not measured yet) and when
    it was last updated; `latency` keeps them.
    """

    @property
    def authority(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def active(self) -> int: ...

    ewma_s: float
    ewma_at: float


C = TypeVar("C", bound=Candidate)


class Balancer(Protocol):
    """Picks endpoints of one upstream."""

    def pick(self, candidates: Sequence[C], key: bytes = b"", now: float = 0.0) -> C:
        """Return the endpoint that takes the next attempt.

        candidates: one or more, not modified. What a balancer works out of them (shares, rings, tables) it keeps for as
        long as it is handed the same object: whoever changes endpoints or their shares hands in another one. A choice of
        some of them (those that were not tried yet) may come in between at any time.
        key: what stands for the client; for balancers that hash, others ignore it. now: monotonic seconds.
        """
        ...

    def prepare(self, candidates: Sequence[C]) -> None:
        """Work out ahead what picks among these candidates will need, so that no request waits for it."""
        ...


def is_even(candidates: Sequence[Candidate]) -> bool:
    """Return whether all have the same share."""
    first = candidates[0].share
    return all(each.share == first for each in candidates)
