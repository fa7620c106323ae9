"""Discovery in memory: whoever holds the object says where services are. For `nexus up`'s gateway and for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping

from nexus_core.discovery import Endpoint, ServiceEntry

from nexus_sdk.discovery.latest import Latest

Endpoints = tuple[Endpoint, ...]


def normalise(endpoints: Iterable[Endpoint]) -> Endpoints:
    """Return the endpoints sorted, the first of each (address, port) only, rather one that does not drain."""
    unique: dict[tuple[str, int], Endpoint] = {}
    for endpoint in sorted(endpoints, key=lambda each: (each.draining, each)):
        unique.setdefault((endpoint.address, endpoint.port), endpoint)
    return tuple(sorted(unique.values()))


class MemoryDiscovery:
    """The `Discovery` port over a table. `set` may be called from any thread."""

    def __init__(self, services: Mapping[str, Iterable[Endpoint]] | None = None) -> None:
        self._entries: dict[str, ServiceEntry] = {}
        self._tagged: dict[tuple[str, str], Endpoints] = {}
        self._latest: dict[tuple[str, str], Latest[Endpoints]] = {}
        self._closed = False
        for name, endpoints in (services or {}).items():
            self.set(name, endpoints)

    def set(
        self,
        service: str,
        endpoints: Iterable[Endpoint],
        meta: Mapping[str, str] | None = None,
        *,
        tags: Mapping[str, Iterable[Endpoint]] | None = None,
    ) -> None:
        """Replace what is known of a service. tags: the endpoints that carry a tag, by tag."""
        self._entries[service] = ServiceEntry(service, normalise(endpoints), dict(meta or {}))
        for key in [key for key in self._tagged if key[0] == service]:
            del self._tagged[key]
        self._tagged.update({(service, tag): normalise(some) for tag, some in (tags or {}).items()})
        self._publish(service)

    def remove(self, service: str) -> None:
        """Forget a service; its watchers see an empty set."""
        self._entries.pop(service, None)
        for key in [key for key in self._tagged if key[0] == service]:
            del self._tagged[key]
        self._publish(service)

    def replace(self, entries: Mapping[str, tuple[ServiceEntry, Mapping[str, Iterable[Endpoint]]]]) -> None:
        """Make `entries` (entry, endpoints by tag) the whole table; what is not in it is forgotten."""
        for service in [name for name in self._entries if name not in entries]:
            self.remove(service)
        for service, (entry, tags) in entries.items():
            self.set(service, entry.endpoints, entry.meta, tags=tags)

    def _publish(self, service: str) -> None:
        for (name, tag), latest in list(self._latest.items()):
            if name == service:
                latest.set(self._find(name, tag))

    def _find(self, service: str, tag: str) -> Endpoints:
        if tag:
            return self._tagged.get((service, tag), ())
        entry = self._entries.get(service)
        return entry.endpoints if entry else ()

    async def watch(self, service: str, *, tag: str = "") -> AsyncGenerator[Endpoints, None]:
        if self._closed:
            return
        key = (service, tag)
        latest = self._latest.get(key)
        if latest is None:
            latest = self._latest[key] = Latest()
            latest.set(self._find(service, tag))
        async with contextlib.aclosing(latest.watch()) as changes:
            async for endpoints in changes:
                yield endpoints

    async def resolve(self, service: str, *, tag: str = "") -> Endpoints:
        return self._find(service, tag)

    async def services(self) -> Mapping[str, ServiceEntry]:
        return dict(sorted(self._entries.items()))

    async def close(self) -> None:
        self._closed = True
        for latest in self._latest.values():
            latest.close()
