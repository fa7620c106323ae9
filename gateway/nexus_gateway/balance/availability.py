"""Which endpoints of an upstream take requests now, with what share each, and until when that answer holds.

Worked out when something changed or the time has come, never for each request:
1. Out of the question: endpoints that are draining or do not belong to the subset.
2. Available: healthy by active checks, not ejected, circuit closed or ready for a probe.
3. Panic: when too few are available, health and ejections are not believed (`Balancing.panic_ratio`): what is left would be
   overloaded, and the checks are more often wrong than everything is down at once. Circuits still count, since they refuse
   requests whatever is decided here; only when every circuit is open are all returned, so that their refusal is the answer.
4. Shares: weight, smaller while an endpoint is new (slow start), then moved between zones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from nexus_core.snapshot import Balancing

SLOW_START_STEPS = 10
"""A new endpoint's share grows in so many equal steps, the first one at once. Not at every request: each change of shares makes
balancers plan anew. Envoy's least weight in slow start is a tenth as well."""

PROBE_AGAIN_S = 1.0
"""When to look again at an endpoint whose half-open circuit has no probe left: the probe's end is told of, unless it is lost."""


class Circuit(Protocol):
    """The breaker of an endpoint. reopens_at: monotonic second from which an open circuit lets probes through."""

    @property
    def reopens_at(self) -> float: ...

    def would_allow(self, now: float) -> bool:
        """Return whether a request would pass now."""
        ...


class Watched(Protocol):
    """What is known of an endpoint. Times are monotonic seconds; ejected_until, since: 0.0 for never and for always."""

    share: float
    """Written here."""

    @property
    def weight(self) -> int: ...
    @property
    def draining(self) -> bool: ...
    @property
    def healthy(self) -> bool: ...
    @property
    def ejected_until(self) -> float: ...
    @property
    def since(self) -> float: ...
    @property
    def zone(self) -> str: ...
    @property
    def meta(self) -> Collection[tuple[str, str]]: ...
    @property
    def breaker(self) -> Circuit: ...


S = TypeVar("S", bound=Watched)


def is_available(state: Watched, now: float) -> bool:
    """Return whether the endpoint can take a request now, whatever shares say: for sessions that belong to it."""
    return not state.draining and state.healthy and state.ejected_until <= now and state.breaker.would_allow(now)


def available(states: Iterable[S], policy: Balancing, zone: str, now: float) -> tuple[tuple[S, ...], float]:
    """Return the endpoints that take requests, in the order given, and the monotonic second at which to ask again.

    Their `share` is set, above 0. zone: the gateway's own; empty when unknown. inf: only a change of an endpoint alters
    the answer. The answer is empty when none may take requests: all are draining, or outside the subset, or (with
    `panic_ratio` 0) unavailable.
    """
    serving = [each for each in states if not each.draining and all(pair in each.meta for pair in policy.subset)]
    live: list[S] = [each for each in serving if is_available(each, now)]
    panic = len(live) < policy.panic_ratio * len(serving)
    if panic:
        live = [each for each in serving if each.breaker.would_allow(now)] or serving
    again = math.inf
    for each in serving:
        if each.ejected_until > now:
            again = min(again, each.ejected_until)
        if not each.breaker.would_allow(now):
            reopens_at = each.breaker.reopens_at
            again = min(again, reopens_at if reopens_at > now else now + PROBE_AGAIN_S)
    for each in live:
        each.share = float(each.weight)
        if policy.slow_start_s > 0.0:
            again = min(again, _slow_start(each, policy.slow_start_s, now))
    if policy.zone_aware and zone and not panic:
        live = _prefer_zone(live, zone, len({zone, *(each.zone for each in serving)}))
    return tuple(live), again


def _slow_start(state: Watched, slow_start_s: float, now: float) -> float:
    """Scale the share of an endpoint that is new, and return when the next step is due."""
    width = slow_start_s / SLOW_START_STEPS
    step = max(1, math.ceil((now - state.since) / width)) if now - state.since < slow_start_s else SLOW_START_STEPS
    if step < SLOW_START_STEPS and state.since + step * width <= now:
        step += 1
    if step >= SLOW_START_STEPS:
        return math.inf
    state.share *= step / SLOW_START_STEPS
    return state.since + step * width


def _prefer_zone(live: Sequence[S], own: str, zones: int) -> list[S]:
    """Return the endpoints that requests of a gateway in this zone go to, with their shares moved accordingly.

    zones: how many there are in all, of which each is taken to receive an equal part of all requests.
    A zone's capacity is its part of all shares. With at least 1/zones of it the own zone takes everything. With less it takes
    capacity · zones, which loads its endpoints as much as any, and the rest goes to the zones that have more than 1/zones, in
    proportion to what they have beyond that. So every endpoint gets the load of its share when all zones' gateways do the same.
    Source: Envoy's zone aware routing (docs: "Zone aware routing" under load balancing), which compares with the zone's part
    of all gateways; gateways do not know of each other here, hence 1/zones.
    """
    capacity: dict[str, float] = {}
    for each in live:
        capacity[each.zone] = capacity.get(each.zone, 0.0) + each.share
    total = sum(capacity.values())
    if not total:
        return list(live)
    capacity = {name: part / total for name, part in capacity.items()}
    here = min(1.0, capacity.get(own, 0.0) * zones)
    beyond = {name: part - 1.0 / zones for name, part in capacity.items() if name != own and part > 1.0 / zones}
    if here > 1.0 - 1e-9 or not beyond:
        # Zones in balance to the last bit have nothing beyond; what is missing is a rounding error.
        return [each for each in live if each.zone == own] if own in capacity else list(live)
    spilled = (1.0 - here) / sum(beyond.values())
    factor = {name: part * spilled / capacity[name] for name, part in beyond.items()}
    if here:
        factor[own] = here / capacity[own]
    kept = [each for each in live if each.zone in factor]
    for each in kept:
        each.share *= factor[each.zone]
    return kept
