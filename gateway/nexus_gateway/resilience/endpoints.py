"""What the gateway knows of each endpoint. Keyed by upstream and address, so it outlives every Snapshot swap and absence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker as BreakerPolicy

from nexus_gateway.resilience.breakers import CLOSED, Breaker
from nexus_gateway.resilience.cells import Cells

FORGET_AFTER_S = 600.0
"""State of an endpoint that discovery no longer lists is kept this long: a flapping endpoint must not come back with a
clean record, and a registry that restarts empty must not wipe what was learned."""

NEW_AFTER_S = 5.0
"""An endpoint that was away for longer counts as started anew, for slow start: a process that restarts is gone longer than
a registry that hiccups."""

SWEEP_AFTER_S = 4 * FORGET_AFTER_S
"""Shared cells that no worker touched for so long are free again. `EndpointRegistry.forget`, called at least once in
`FORGET_AFTER_S`, touches them."""

_CELLS_BYTES = 1 << 20

STRIKES, EJECTED_UNTIL, EJECTIONS, HEALTH = range(4)
"""Cells of an endpoint's own slot, see `outliers`."""

_SIZE = 8


class EndpointState:
    """One endpoint of one upstream as the gateway lived it.

    The hot path reads and writes these plainly; what workers share is mirrored here (`EndpointRegistry.mirror`).

    active: attempts running now. attempts, failures: since it was first seen. connections: open, in this worker.
    idle: pooled connections, the last used at the end; the edge's. weight: as discovery says; share: the effective one
    (slow start, zones), written by `balance`. ewma_s, ewma_at: smoothed response time and when it was last updated.
    healthy: what active checks say. strikes, ejections, ejected_until: see `outliers`; monotonic second, 0 = never out.
    since: when it last began to take requests, for slow start. draining, zone, meta: as discovery says.
    seen_at: when discovery last listed it; gone_at: since when it does not, 0 while it does.
    """

    __slots__ = (
        "_cells", "active", "attempts", "authority", "breaker", "connections", "draining", "ejected_until", "ejections",
        "endpoint", "ewma_at", "ewma_s", "failures", "gone_at", "healthy", "idle", "meta", "seen_at", "share", "since",
        "slot", "strikes", "upstream", "weight", "zone",
    )  # fmt: skip

    def __init__(self, upstream: str, endpoint: Endpoint, breaker: Breaker, now: float, cells: Cells) -> None:
        self.upstream = upstream
        self.authority = endpoint.authority
        self.breaker = breaker
        self.active = 0
        self.attempts = 0
        self.failures = 0
        self.connections = 0
        self.idle: list[Any] = []
        self.ewma_s = 0.0
        self.ewma_at = 0.0
        self.healthy = True
        self.strikes = 0
        self.ejections = 0
        self.ejected_until = 0.0
        self.since = now
        self.gone_at = 0.0
        self.slot = cells.slot(f"endpoint/{upstream}/{endpoint.authority}", _SIZE, now)
        self._cells = cells
        self.share = float(endpoint.weight)
        self.listed(endpoint, now)
        self.mirror()

    def listed(self, endpoint: Endpoint, now: float) -> None:
        """Take over what discovery says of it now."""
        if self.gone_at and now - self.gone_at >= NEW_AFTER_S:
            self.since = now
        self.gone_at = 0.0
        self.seen_at = now
        self.endpoint = endpoint
        self.weight = endpoint.weight
        self.share = float(endpoint.weight)
        self.draining = endpoint.draining
        self.zone = endpoint.zone
        self.meta = endpoint.meta

    def mirror(self) -> bool:
        """Take over ejections, strikes and health as all workers left them; return whether it went out or came back by that."""
        view, at = self.slot.view, self.slot.at
        before = self.ejected_until, self.healthy
        said = view[at + HEALTH]
        if said:
            self.healthy = said > 0.0
        self.strikes = int(view[at + STRIKES])
        self.ejected_until = view[at + EJECTED_UNTIL]
        self.ejections = int(view[at + EJECTIONS])
        return (self.ejected_until, self.healthy) != before

    def judged(self, healthy: bool) -> None:
        """Tell all workers what active checks say: one of them probes for all."""
        self.slot.view[self.slot.at + HEALTH] = 1.0 if healthy else -1.0
        self.mark()

    def mark(self) -> None:
        """Tell all workers that its shared state changed."""
        self._cells.mark()


class EndpointRegistry:
    """All endpoint states of one gateway, and the breakers of whole services."""

    def __init__(self, on_breaker: Callable[[str, str, str], None] | None = None, cells: Cells | None = None) -> None:
        """on_breaker: called with (upstream id, authority, new state) at each transition of a circuit; the authority of a
        service's breaker is empty. cells: shared with the other workers; None for a gateway of one process."""
        self.cells = Cells(bytearray(_CELLS_BYTES)) if cells is None else cells
        self._states: dict[tuple[str, str], EndpointState] = {}
        self._services: WeakValueDictionary[str, Breaker] = WeakValueDictionary()
        self._listed: dict[str, tuple[EndpointState, ...]] = {}
        self._on_breaker = on_breaker
        self._changes = self.cells.changes

    def update(
        self, upstream: str, endpoints: Iterable[Endpoint], policy: BreakerPolicy, now: float
    ) -> tuple[EndpointState, ...]:
        """Return the states of the endpoints, in their order; known ones keep breaker and counts, with the policy of now."""
        states = tuple(self._one(upstream, endpoint, policy, now) for endpoint in endpoints)
        for state in set(self._listed.get(upstream, ())).difference(states):
            state.gone_at = now
        self._listed[upstream] = states
        return states

    def _one(self, upstream: str, endpoint: Endpoint, policy: BreakerPolicy, now: float) -> EndpointState:
        key = (upstream, endpoint.authority)
        state = self._states.get(key)
        if state is None:
            breaker = Breaker(policy, self._listener(*key), self.cells, f"{upstream}/{endpoint.authority}", now)
            state = EndpointState(upstream, endpoint, breaker, now, self.cells)
            self._states[key] = state
            return state
        if state.breaker.policy != policy:
            state.breaker.apply(policy, now)
        state.listed(endpoint, now)
        return state

    def service_breaker(self, upstream: str, policy: BreakerPolicy, now: float = 0.0) -> Breaker:
        """Return the breaker of a whole upstream, the same one as before under the policy of now.

        It is known here as long as the caller holds it; a later one of the same upstream goes on from its cells.
        """
        breaker = self._services.get(upstream)
        if breaker is None:
            breaker = Breaker(policy, self._listener(upstream, ""), self.cells, f"service/{upstream}", now)
            self._services[upstream] = breaker
        elif breaker.policy != policy:
            breaker.apply(policy, now)
        return breaker

    def _listener(self, upstream: str, authority: str) -> Callable[[str], None] | None:
        tell = self._on_breaker
        if tell is None:
            return None
        return lambda state: tell(upstream, authority, state)

    def mirror(self, now: float) -> frozenset[str]:
        """Take over what other workers did since the last call; return the upstreams whose availability may have changed.

        Called at each tick (100 ms); costs one comparison while nothing changed, ~1 µs for each endpoint when something did.
        Changes of this worker's own count too: a caller that rebuilt its pools at once rebuilds them once more.
        """
        changes = self.cells.changes
        if changes == self._changes:
            return frozenset()
        self._changes = changes
        changed = set()
        for state in self._states.values():
            moved = state.breaker.mirror(now)
            if state.mirror() or moved or state.breaker.state is not CLOSED:
                changed.add(state.upstream)
        for upstream, breaker in self._services.items():
            if breaker.mirror(now):
                changed.add(upstream)
        return frozenset(changed)

    def forget(self, live: Iterable[EndpointState], now: float) -> None:
        """Drop states that are not live, idle and unseen for `FORGET_AFTER_S`. Called now and then, not for each request."""
        for state in live:
            state.seen_at = now
        gone = [
            key for key, state in self._states.items() if state.active == 0 and now - state.seen_at > FORGET_AFTER_S
        ]
        for key in gone:
            del self._states[key]
        kept = {upstream for upstream, _ in self._states}
        for upstream in self._listed.keys() - kept:
            del self._listed[upstream]
        slots = [state.slot for state in self._states.values()]
        for breaker in (*(state.breaker for state in self._states.values()), *self._services.values()):
            slots.extend(breaker.slots())
        self.cells.touch(slots, now)

    def all(self) -> tuple[EndpointState, ...]:
        """Return every known state, by upstream and address."""
        return tuple(self._states[key] for key in sorted(self._states))
