"""What the gateway knows of each endpoint. Keyed by upstream and address, so it outlives every Snapshot swap."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker as BreakerPolicy

from nexus_gateway.resilience.breakers import Breaker

FORGET_AFTER_S = 600.0
"""State of an endpoint that discovery no longer lists is kept this long: a flapping endpoint must not come back with a
clean record, and a registry that restarts empty must not wipe what was learned."""


class EndpointState:
    """One endpoint of one upstream as the gateway lived it.

    active: attempts running now. attempts, failures: since it was first seen. seen_at: when discovery last listed it.
    """

    __slots__ = ("active", "attempts", "authority", "breaker", "endpoint", "failures", "seen_at", "upstream", "weight")

    def __init__(self, upstream: str, endpoint: Endpoint, breaker: Breaker, now: float) -> None:
        self.upstream = upstream
        self.endpoint = endpoint
        self.authority = endpoint.authority
        self.weight = endpoint.weight
        self.breaker = breaker
        self.active = 0
        self.attempts = 0
        self.failures = 0
        self.seen_at = now


class EndpointRegistry:
    """All endpoint states of one gateway."""

    def __init__(self, on_breaker: Callable[[str, str, str], None] | None = None) -> None:
        """on_breaker: called with (upstream id, authority, new state) at each transition of a circuit."""
        self._states: dict[tuple[str, str], EndpointState] = {}
        self._on_breaker = on_breaker

    def update(
        self, upstream: str, endpoints: Iterable[Endpoint], policy: BreakerPolicy, now: float
    ) -> tuple[EndpointState, ...]:
        """Return the states of the endpoints, in their order; known ones keep breaker and counts, with the policy of now."""
        return tuple(self._one(upstream, endpoint, policy, now) for endpoint in endpoints)

    def _one(self, upstream: str, endpoint: Endpoint, policy: BreakerPolicy, now: float) -> EndpointState:
        key = (upstream, endpoint.authority)
        state = self._states.get(key)
        if state is None:
            state = EndpointState(upstream, endpoint, Breaker(policy, self._listener(key)), now)
            self._states[key] = state
            return state
        if state.breaker.policy != policy:
            state.breaker.apply(policy)
        state.endpoint = endpoint
        state.weight = endpoint.weight
        state.seen_at = now
        return state

    def _listener(self, key: tuple[str, str]) -> Callable[[str], None] | None:
        tell = self._on_breaker
        if tell is None:
            return None
        return lambda state: tell(key[0], key[1], state)

    def forget(self, live: Iterable[EndpointState], now: float) -> None:
        """Drop states that are not live, idle and unseen for `FORGET_AFTER_S`. Called now and then, not for each request."""
        for state in live:
            state.seen_at = now
        gone = [
            key for key, state in self._states.items() if state.active == 0 and now - state.seen_at > FORGET_AFTER_S
        ]
        for key in gone:
            del self._states[key]

    def all(self) -> tuple[EndpointState, ...]:
        """Return every known state, by upstream and address."""
        return tuple(self._states[key] for key in sorted(self._states))
