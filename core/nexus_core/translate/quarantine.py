"""The last good version of broken objects: the items that the previous Snapshot holds from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Listener, PluginInstance, RateLimit, Route, Snapshot, StreamRoute, Upstream

Item = TypeVar("Item", Listener, Route, StreamRoute, Upstream, PluginInstance)


class LastGood:
    """The previous Snapshot, by source and by id."""

    def __init__(self, previous: Snapshot) -> None:
        self.snapshot = previous
        self._listeners = _by_source(previous.listeners)
        self._routes = _by_source(previous.routes)
        self._streams = _by_source(previous.streams)
        self._plugins = _by_source(previous.plugins)
        self._upstreams = _by_source(previous.upstreams)
        self.upstreams = {upstream.id: upstream for upstream in previous.upstreams}
        self.routes = {route.id: route for route in previous.routes}
        # One that lacks a release is nothing that ran: there is nothing of it to go on with.
        self.plugins = {plugin.id: plugin for plugin in previous.plugins if plugin.lacking is None}
        self.listeners = {listener.id: listener for listener in previous.listeners}
        self.certificates = {certificate.id: certificate for certificate in previous.certificates}
        self.parts = {part.id: part for part in previous.gateways}
        self._at: dict[str, frozenset[str]] | None = None
        self._limits: dict[str, dict[str, RateLimit]] | None = None

    def listeners_of(self, ref: ObjectRef) -> tuple[Listener, ...]:
        """Return the listeners a Gateway had."""
        return self._listeners.get(str(ref), ())

    def routes_at(self, listener: str) -> frozenset[str]:
        """Return the ids of the routes, of all kinds, that a listener had."""
        if self._at is None:  # built when first asked for: only broken objects need it
            found: dict[str, set[str]] = {}
            attached = [(route.id, route.listeners) for route in self.snapshot.routes]
            attached += [(stream.id, stream.listeners) for stream in self.snapshot.streams]
            for route_id, listeners in attached:
                for name in listeners:
                    found.setdefault(name, set()).add(route_id)
            self._at = {name: frozenset(ids) for name, ids in found.items()}
        return self._at.get(listener, frozenset())

    def routes_of(self, ref: ObjectRef) -> tuple[Route, ...]:
        """Return the routes an object had."""
        return self._routes.get(str(ref), ())

    def streams_of(self, ref: ObjectRef) -> tuple[StreamRoute, ...]:
        """Return the routes below HTTP an object had."""
        return self._streams.get(str(ref), ())

    def upstreams_of(self, ref: ObjectRef) -> tuple[Upstream, ...]:
        """Return the upstreams an object had."""
        return self._upstreams.get(str(ref), ())

    def plugins_of(self, ref: ObjectRef) -> tuple[PluginInstance, ...]:
        """Return the plugin instances an object had, those that lack a release too."""
        return self._plugins.get(str(ref), ())

    def limits_of(self, ref: ObjectRef) -> tuple[RateLimit, ...]:
        """Return the rate limits an object put on any route, in its order."""
        if self._limits is None:  # built when first asked for: only broken objects need it
            self._limits = {}
            for route in self.snapshot.routes:
                for rule in route.rules:
                    for item in rule.filters:
                        if isinstance(item, RateLimit):
                            self._limits.setdefault(item.name.rpartition("/")[0], {})[item.name] = item
        found = self._limits.get(str(ref), {})
        return tuple(sorted(found.values(), key=lambda limit: int(limit.name.rpartition("/")[2])))


def _by_source(items: Iterable[Item]) -> dict[str, tuple[Item, ...]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.source, []).append(item)
    return {name: tuple(group) for name, group in found.items()}
