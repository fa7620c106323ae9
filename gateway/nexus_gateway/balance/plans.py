"""What balancers that work things out ahead have in common: which candidates their plan is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nexus_gateway.balance.candidates import C, Candidate


class Planned:
    """Tells a change of the endpoints, which is worth a new plan, from a passing choice of some of them, which is not.

    A retry chooses among those that were not tried yet. A plan made for that choice would be thrown away with the next request,
    so the plan for all is kept and the ones that are not in the choice are stepped over. Handed in a second time, the
    same object is no passing choice.
    """

    def __init__(self) -> None:
        self._known: Sequence[Any] = ()
        self._names: frozenset[str] = frozenset()
        self._passing: Sequence[Any] | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Make the plan for these candidates."""
        self._plan(candidates)
        self._known = candidates
        self._names = frozenset(each.authority for each in candidates)
        self._passing = None

    def _plan(self, candidates: Sequence[Candidate]) -> None:
        raise NotImplementedError

    def _admit(self, candidates: Sequence[C]) -> Mapping[str, C] | None:
        """Return a passing choice by authority, or None when there is now a plan for the candidates."""
        if candidates is not self._passing:
            by_name = {each.authority: each for each in candidates}
            if len(by_name) < len(self._names) and by_name.keys() <= self._names:
                self._passing = candidates
                return by_name
        self.prepare(candidates)
        return None
