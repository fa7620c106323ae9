"""Which route takes a connection or a client's datagrams, and which of its backends is next.

Of routes with equal claims on a listener the oldest serves, then the one with the smaller id. Among TLSRoutes of a listener the
most specific host name decides: exact, then the longest wildcard, then any. A route whose share goes to a backend that could
not be resolved refuses that share; it does not hand it on to a less specific route.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nexus_core.match import hosts
from nexus_core.snapshot import StreamRoute

from nexus_gateway.balance.split import Split
from nexus_gateway.edge.pools import Pool


class StreamPlan:
    """A route as connections use it. Kept over swaps that change neither the route nor what it leads to, so that weights
    go on where they are in turn.

    pools: of its backends, in their order; None for one that could not be resolved.
    """

    __slots__ = ("_split", "pools", "route")

    def __init__(self, route: StreamRoute, pools: Mapping[str, Pool]) -> None:
        self.route = route
        self.pools = tuple(pools.get(each.upstream) for each in route.backends)
        self._split = Split([each.weight for each in route.backends])

    def next(self) -> tuple[str, Pool | None] | None:
        """Return the upstream id and pool of the backend whose turn it is, None as pool for one that could not be resolved; None
        when no backend takes anything."""
        index = self._split.next()
        if index is None:
            return None
        return self.route.backends[index].upstream, self.pools[index]

    @property
    def age(self) -> tuple[str, str]:
        """What decides between equal claims, the least of which serves."""
        return self.route.created_at, self.route.id

    def leads_to(self, pool: Pool) -> bool:
        """Return whether a backend of weight above 0 is this pool."""
        return any(
            each is pool and backend.weight for each, backend in zip(self.pools, self.route.backends, strict=True)
        )


class StreamPlans:
    """The plans of one Snapshot, by listener."""

    __slots__ = ("_by_route", "_plain", "_tls")

    def __init__(self, routes: Sequence[StreamRoute], pools: Mapping[str, Pool], former: StreamPlans | None) -> None:
        self._by_route: dict[str, StreamPlan] = {}
        self._plain: dict[tuple[str, str], StreamPlan] = {}
        self._tls: dict[str, dict[str, StreamPlan]] = {}
        kept = former._by_route if former is not None else {}
        for plan in sorted((StreamPlan(route, pools) for route in routes), key=lambda plan: plan.age):
            route = plan.route
            before = kept.get(route.id)
            if before is not None and before.route == route and _same(before.pools, plan.pools):
                plan = before
            self._by_route[route.id] = plan
            for listener in route.listeners:
                if route.kind == "TLS":
                    named = self._tls.setdefault(listener, {})
                    for name in route.hostnames or (hosts.ANY,):
                        named.setdefault(name, plan)
                else:
                    self._plain.setdefault((listener, route.kind), plan)

    def connection(self, listeners: Iterable[str], server_name: str = "") -> StreamPlan | None:
        """Return the plan of a new connection; None for no route.

        listeners: ids of those that it came to, more than one where Gateways share a port. server_name: what its TLS client
        asked for, lower-case; empty for none, and without TLS. A TCPRoute takes what TLSRoutes leave.
        """
        ids = tuple(listeners)
        found = [(pattern, named[pattern]) for named, pattern in self._named(ids, server_name)]
        if found:
            return min(found, key=lambda each: (_rank(each[0]), each[1].age))[1]
        return self._oldest(ids, "TCP")

    def datagrams(self, listeners: Iterable[str]) -> StreamPlan | None:
        """Return the plan of a new client of UDP listeners that share a port; None for no route."""
        return self._oldest(listeners, "UDP")

    def _named(self, listeners: Iterable[str], name: str) -> Iterator[tuple[dict[str, StreamPlan], str]]:
        """Yield each listener's names with the most specific one that covers the name."""
        for listener in listeners:
            named = self._tls.get(listener)
            if named is not None:
                for pattern in hosts.chain(named, name):
                    yield named, pattern
                    break

    def _oldest(self, listeners: Iterable[str], kind: str) -> StreamPlan | None:
        found = [plan for listener in listeners if (plan := self._plain.get((listener, kind))) is not None]
        return min(found, key=lambda plan: plan.age, default=None)

    def all(self) -> tuple[StreamPlan, ...]:
        """Return every plan, the oldest route first."""
        return tuple(self._by_route.values())


def build_stream_plans(
    streams: Sequence[StreamRoute], pools: Mapping[str, Pool], former: StreamPlans | None = None
) -> StreamPlans:
    """Return the plans of a Snapshot. pools: by upstream id, those of the same Snapshot. former: the live plans, of which those
    of unchanged routes are taken over."""
    return StreamPlans(streams, pools, former)


NO_PLANS = build_stream_plans((), {})
"""Of a Snapshot without streams."""


def _rank(pattern: str) -> tuple[int, int]:
    """Return how specific a host name is, the least for the most specific."""
    return (2, 0) if pattern == hosts.ANY else (int(pattern.startswith("*.")), -len(pattern))


def _same(before: Sequence[Pool | None], now: Sequence[Pool | None]) -> bool:
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))
