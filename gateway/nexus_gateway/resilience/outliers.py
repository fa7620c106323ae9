"""Passive ejection: an endpoint that answers badly several times in a row takes no requests for a while.

Unlike a circuit it counts every 5xx, and it never takes out more than a share of an upstream's endpoints, nor the last one.
Strikes are counted together by all workers, through cells, as exactly as a breaker's failures are (see `breakers`);
an ejection is seen by all within a tick. Two workers that eject two endpoints within the same tick may go over the share by one each.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexus_core.snapshot import Outlier

from nexus_gateway.resilience.endpoints import EJECTED_UNTIL, EJECTIONS, STRIKES, EndpointState

LONGEST = 10
"""An ejection lasts at most this many times `eject_s`."""

FORGIVE_AFTER = 2.0
"""Each time this many `eject_s` pass in service, one ejection is forgiven: the next one is that much shorter."""


class Outliers:
    """Applies one upstream's policy; what it knows of an endpoint is kept on its `EndpointState`."""

    __slots__ = ("policy",)

    def __init__(self, policy: Outlier) -> None:
        self.policy = policy

    def failure(self, state: EndpointState, states: Sequence[EndpointState], now: float) -> bool:
        """Count a 5xx answer or a failed attempt, and return whether the endpoint was ejected by it.

        states: all of the upstream's endpoints that discovery lists. A failure of an endpoint that is out already says nothing
        new. Off the hot path: O(endpoints) once the count is full.
        """
        state.mirror()
        if now < state.ejected_until:
            return False
        state.strikes += 1
        state.slot.view[state.slot.at + STRIKES] = state.strikes
        if state.strikes == 1:
            state.mark()  # so that good answers elsewhere set the count back
        if state.strikes < max(1, self.policy.failures) or not self._may_go(state, states, now):
            return False
        self._eject(state, now)
        return True

    def success(self, state: EndpointState) -> None:
        """Count an answer below 500. The hot path calls this only while `state.strikes` is not 0."""
        state.strikes = 0
        state.slot.view[state.slot.at + STRIKES] = 0.0

    def _may_go(self, state: EndpointState, states: Sequence[EndpointState], now: float) -> bool:
        others = [each for each in states if each is not state]
        out = sum(now < each.ejected_until for each in others)
        return out < len(others) and out + 1 <= self.policy.max_ejected_ratio * (len(others) + 1)

    def _eject(self, state: EndpointState, now: float) -> None:
        served_s = now - state.ejected_until if state.ejections else 0.0
        forgiven = int(served_s / (FORGIVE_AFTER * self.policy.eject_s)) if self.policy.eject_s > 0 else 0
        state.ejections = max(0, state.ejections - forgiven) + 1
        state.ejected_until = now + self.policy.eject_s * min(state.ejections, LONGEST)
        state.strikes = 0
        view, at = state.slot.view, state.slot.at
        view[at + STRIKES] = 0.0
        view[at + EJECTIONS] = state.ejections
        view[at + EJECTED_UNTIL] = state.ejected_until
        state.mark()
