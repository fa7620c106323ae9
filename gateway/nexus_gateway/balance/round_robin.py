"""`round-robin`: smooth and weighted."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_gateway.balance.candidates import C, Candidate
from nexus_gateway.balance.plans import Planned
from nexus_gateway.balance.schedules import build_round

_TENTHS = 10
"""Slow start scales shares by tenths, so ten times a share is a whole number more often than the share is."""


class RoundRobin(Planned):
    """Spreads weighted picks evenly: shares 5, 1, 1 give a a b a c a a, not a a a a a b c.

    One round is worked out ahead when it is short. Else each pick takes the endpoint whose next turn is due first, where turns of
    share 2 come twice as often as those of share 1 (earliest deadline first).
    Cost: O(1) a pick, O(log n) for long rounds. Sources: `schedules`; earliest deadline first as Envoy's `EdfScheduler`.
    """

    def __init__(self, rng: random.Random) -> None:
        """rng: unused; every balancer is built alike."""
        super().__init__()
        self._round: tuple[Any, ...] = ()
        self._at = -1
        # Due times with place in the candidates and time between turns, as a heap; empty while there is a round.
        self._due: list[tuple[float, int, float]] = []
        self._clock = 0.0

    def _plan(self, candidates: Sequence[Candidate]) -> None:
        whole = _whole([each.share for each in candidates])
        turns = build_round(whole) if whole is not None else None
        if turns is not None:
            # The place in the round is kept: endpoints that come and go at every request must not starve the last ones.
            self._at = self._at % len(turns) if self._at >= 0 else -1
            self._round = tuple(candidates[index] for index in turns)
            self._due = []
            return
        # Who is known keeps what it has waited, in its new pace; who is new begins in the middle of a turn.
        waits = {self._known[index].authority: (due - self._clock) / pace for due, index, pace in self._due}
        self._round = ()
        self._due = [
            (self._clock + waits.get(each.authority, 0.5) / each.share, index, 1.0 / each.share)
            for index, each in enumerate(candidates)
        ]
        heapq.heapify(self._due)

    def pick(self, candidates: Sequence[C], key: bytes = b"", now: float = 0.0) -> C:
        """Return the endpoint whose turn it is."""
        if candidates is not self._known:
            passing = self._admit(candidates)
            if passing is not None:
                return self._pick_passing(passing)
        turns = self._round
        if turns:
            self._at = at = self._at + 1
            if at >= len(turns):
                self._at = at = 0
            found: C = turns[at]
            return found
        due, index, pace = self._due[0]
        self._clock = due
        heapq.heapreplace(self._due, (due + pace, index, pace))
        return candidates[index]

    def _pick_passing(self, passing: Mapping[str, C]) -> C:
        """Return the one of the passing choice whose turn comes first; those before it forgo theirs in a round."""
        if self._round:
            for _ in self._round:
                self._at = (self._at + 1) % len(self._round)
                found = passing.get(self._round[self._at].authority)
                if found is not None:
                    return found
        best = min(entry for entry in self._due if self._known[entry[1]].authority in passing)
        due, index, pace = best
        self._due[self._due.index(best)] = (due + pace, index, pace)
        heapq.heapify(self._due)
        return passing[self._known[index].authority]


def _whole(shares: Sequence[float]) -> list[int] | None:
    """Return the shares as whole numbers in the same proportion, if that takes no more than tenths."""
    whole = [round(share * _TENTHS) for share in shares]
    exact = all(abs(number - share * _TENTHS) < 1e-6 for number, share in zip(whole, shares, strict=True))
    return whole if exact and min(whole) > 0 else None
