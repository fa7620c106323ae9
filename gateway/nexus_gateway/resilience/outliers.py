"""Passive ejection: an endpoint that answers badly several times in a row takes no requests for a while.

Unlike a circuit it counts every 5xx, and it never takes out more than a share of an upstream's endpoints, nor the last one.
Strikes are counted together by all workers, through cells, as exactly as a breaker's failures are (see `breakers`);
an ejection is seen by all within a tick. Two workers that eject two endpoints within the same tick may go over the share by one each.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexus_core.snapshot import Outlier

from nexus_gateway.resilience.cells import Slot
from nexus_gateway.resilience.endpoints import EJECTED_UNTIL, EJECTIONS, STRIKES, EndpointState

LONGEST = 10
"""An ejection lasts at most this many times `eject_s`."""

FORGIVE_AFTER = 2.0
"""Each this many `eject_s` in service take one ejection off the count."""


def failed(state: EndpointState, all_states: Sequence[EndpointState], policy: Outlier, now: float) -> bool:
    """Count a 5xx answer or a failed attempt, and return whether the endpoint was ejected by it.

    all_states: the upstream's endpoints that discovery lists, this one among them. A failure of an endpoint that is out already says
    nothing new. Off the hot path: O(endpoints) when the count is full.
    """
    state.mirror()
    if now < state.ejected_until:
        return False
    slot = state.slot
    strikes = int(slot.view[slot.at + STRIKES]) + 1
    slot.view[slot.at + STRIKES] = state.strikes = strikes
    if strikes == 1:
        state.mark()  # so that good answers elsewhere set the count back
    if strikes < max(1, policy.failures):
        return False
    out = sum(1 for each in all_states if each is not state and now < each.ejected_until)
    left = len(all_states) - out - 1
    if left < 1 or out + 1 > policy.max_ejected_ratio * len(all_states):
        return False
    _eject(state, slot, policy, now)
    return True


def passed(state: EndpointState) -> None:
    """Count a good answer. The hot path calls this only while `state.strikes` is not 0."""
    slot = state.slot
    slot.view[slot.at + STRIKES] = state.strikes = 0


def _eject(state: EndpointState, slot: Slot, policy: Outlier, now: float) -> None:
    ejections = state.ejections
    if state.ejected_until and policy.eject_s > 0:
        ejections -= int((now - state.ejected_until) / (FORGIVE_AFTER * policy.eject_s))
    state.ejections = max(0, ejections) + 1
    state.ejected_until = now + policy.eject_s * min(state.ejections, LONGEST)
    state.strikes = 0
    view, at = slot.view, slot.at
    view[at + STRIKES] = 0.0
    view[at + EJECTIONS] = state.ejections
    view[at + EJECTED_UNTIL] = state.ejected_until
    state.mark()
