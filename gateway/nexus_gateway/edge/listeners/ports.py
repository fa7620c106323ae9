"""The doors of one process: opened before a Snapshot is acked, closed after it is live, tried again while they cannot be opened.

A swap goes in three steps. `prepare` works out what the Snapshot wants, makes TLS contexts (in a thread) and opens what is new:
what connects there waits. `commit`, without a pause, puts every door's new plan in force at the moment when the runtime changes.
`settle` accepts at the new doors and closes those that are gone; connections to them live on and are asked to leave.
A door that cannot be opened costs its listeners alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Certificate, Listener, Snapshot

from nexus_gateway.edge.listeners import plans, shown
from nexus_gateway.edge.listeners.asking import Doors
from nexus_gateway.edge.listeners.doors import Host, OpenDoor
from nexus_gateway.edge.listeners.plans import Addresses, Door, Plan
from nexus_gateway.edge.tls.serving import Contexts, ListenerUnusable, Shown
from nexus_gateway.edge.workers.places import Place

log = logging.getLogger("nexus.gateway.listeners")

REASON = "ListenerNotOpen"
_UNKNOWN = "Its TLS cannot be prepared. The gateway's log says more."


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a Snapshot wants, ready to be put in force. shown: by `Front.key`. refused, doubtful: sentences by listener: those that are
    not served, and those that are though something about them is wrong. fresh: doors that were opened for it, by key.
    failed: those that could not be, with the sentence."""

    plan: Plan
    shown: Mapping[str, Shown]
    refused: Mapping[str, str]
    doubtful: Mapping[str, str]
    fresh: Mapping[str, OpenDoor]
    failed: Mapping[str, str]


class Ports:
    """See the module. refused: what is said of listeners that are not served, by id: what goes into the ack."""

    def __init__(self, addresses: Addresses, place: Place, host: Host, contexts: Contexts) -> None:
        """host: what serves the connections."""
        self._addresses = addresses
        self._place = place
        self._host = host
        self._contexts = contexts
        self._open: dict[str, OpenDoor] = {}
        self._gone: list[OpenDoor] = []
        self._plan = plans.build((), addresses)
        self._shown: Mapping[str, Shown] = {}
        self._refused: Mapping[str, str] = {}
        self._doubtful: Mapping[str, str] = {}
        self._failed: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._listeners: tuple[Listener, ...] = ()
        self._told: Mapping[str, str] = {}
        self._serving = False
        self.wanting = asyncio.Event()
        """Set while a door could not be opened."""

    @property
    def refused(self) -> dict[str, str]:
        """Why listeners are not served, by id."""
        found = dict(self._refused)
        for key, why in self._failed.items():
            for listener in self._plan.doors[key].listeners:
                found.setdefault(listener.id, why)
        return dict(sorted(found.items()))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong, for people: one for each listener."""
        found = {**self._doubtful, **self.refused}
        return tuple(
            _problem(listener, self._sources.get(listener, ""), why) for listener, why in sorted(found.items())
        )

    @property
    def rows(self) -> tuple[shown.ListenerRow, ...]:
        """Where each listener is, and what is wrong with it."""
        return shown.rows(self._listeners, self._plan, self.doors.bound, self.refused, self._doubtful)

    @property
    def doors(self) -> Doors:
        """What is open now, for who asks where a request comes."""
        return Doors(self._plan, {key: door.port for key, door in self._open.items()})

    def bound(self, key: str) -> int:
        """Return the port that a door is bound to, 0 for none. key: see `plans`."""
        door = self._open.get(key)
        return door.port if door is not None else 0

    def declared(self, port: int, *, udp: bool = False) -> int:
        """Return the port that the listeners of a declared one are bound to, 0 for none."""
        for door in self._open.values():
            if door.plan.declared == port and (door.plan.family == "udp") == udp:
                return door.port
        return 0

    async def start(self) -> None:
        """Open what is open without any Snapshot, unless a Snapshot has opened it. Raises OSError."""
        for key, door in self._plan.doors.items():
            if key not in self._open and key not in self._failed:
                self._open[key] = await self._opened(door)
        self._put_in_force()

    async def accept(self) -> None:
        """Accept at every door, from here on at new ones too."""
        self._serving = True
        for door in self._open.values():
            await door.accept()

    # ---- a swap

    async def prepare(self, snapshot: Snapshot) -> Prepared:
        """Return what the Snapshot wants, with what is new of it open. Raises nothing for a listener that cannot be served."""
        plan = plans.build(snapshot.listeners, self._addresses)
        shown, refused, doubtful = await asyncio.to_thread(self._show, plan, snapshot.certificates)
        refused.update(plan.refused)
        fresh: dict[str, OpenDoor] = {}
        failed: dict[str, str] = {}
        for key, door in plan.doors.items():
            if key in self._open:
                continue
            try:
                fresh[key] = await self._opened(door)
            except OSError as error:
                failed[key] = _words(door, error)
        return Prepared(plan, shown, refused, doubtful, fresh, failed)

    async def discard(self, prepared: Prepared) -> None:
        """Close what was opened for a Snapshot that does not go live."""
        for door in prepared.fresh.values():
            await door.close()

    def commit(self, prepared: Prepared, snapshot: Snapshot) -> None:
        """Put the plan in force; goes with the runtime's change, without a pause between the two."""
        before = {**self._doubtful, **self.refused} if self._sources else {}
        self._gone += [door for key, door in self._open.items() if key not in prepared.plan.doors]
        self._open = {key: door for key, door in self._open.items() if key in prepared.plan.doors}
        self._open.update(prepared.fresh)
        # These go together: what failed is of this plan's doors, and is looked up among them.
        self._plan, self._failed = prepared.plan, dict(prepared.failed)
        self._shown = prepared.shown
        self._refused, self._doubtful = prepared.refused, prepared.doubtful
        self._sources = {listener.id: listener.source for listener in snapshot.listeners}
        self._listeners = snapshot.listeners
        self._contexts.end(snapshot.certificates)
        self._put_in_force()
        self._tell(before)

    def _put_in_force(self) -> None:
        for key, door in self._open.items():
            door.follow(self._plan.doors[key], self._shown)
        self._host.sites(self._plan.sites, self._admissions())
        if self._failed:
            self.wanting.set()
        else:
            self.wanting.clear()

    def _admissions(self) -> dict[str, object]:
        """Return by site what a client had to prove there: who proved something else is asked to come again."""
        return {
            front.key: (front.tls.client_authorities, front.tls.client_optional)
            for door in self._plan.doors.values()
            for front in door.fronts.values()
        }

    async def settle(self) -> None:
        """Accept at new doors, close those that are gone."""
        if self._serving:
            await self.accept()
        gone, self._gone = self._gone, []
        for door in gone:
            await door.close()
        self._tell_addresses()

    async def retry(self) -> bool:
        """Try again what could not be opened; return whether something could."""
        done = False
        for key in tuple(self._failed):
            door = self._plan.doors[key]
            try:
                self._open[key] = opened = await self._opened(door)
            except OSError as error:
                self._failed[key] = _words(door, error)
                continue
            done = True
            del self._failed[key]
            opened.follow(door, self._shown)
            log.info("port %d is open now", door.declared or opened.port)
            if self._serving:
                await opened.accept()
        if not self._failed:
            self.wanting.clear()
        if done:
            self._tell_addresses()
        return done

    # ---- the end

    def stop_accepting(self) -> None:
        """Accept nothing more. Connections are left alone."""
        self._serving = False
        for door in (*self._open.values(), *self._gone):
            door.stop()

    # ---- within

    async def _opened(self, door: Door) -> OpenDoor:
        opened = OpenDoor(door, self._host)
        await opened.open(self._place)
        return opened

    def _show(
        self, plan: Plan, certificates: tuple[Certificate, ...]
    ) -> tuple[dict[str, Shown], dict[str, str], dict[str, str]]:
        """Make the contexts of all fronts. In a thread: a thousand certificates take half a second."""
        by_id = {certificate.id: certificate for certificate in certificates}
        shown: dict[str, Shown] = {}
        refused: dict[str, str] = {}
        doubtful: dict[str, str] = {}
        self._contexts.begin()
        for door in plan.doors.values():
            for front in door.fronts.values():
                if not front.ends:
                    continue
                try:
                    shown[front.key], wrong = self._contexts.build(front.tls, by_id, http=front.http)
                except ListenerUnusable as error:
                    refused.update((listener.id, str(error)) for listener in front.listeners)
                except Exception:
                    # A bug of ours, or a certificate that a library chokes on: it costs its listener alone.
                    log.exception("TLS of the listener %s cannot be prepared", front.listeners[0].id)
                    refused.update((listener.id, _UNKNOWN) for listener in front.listeners)
                else:
                    if wrong:
                        doubtful.update((listener.id, " ".join(wrong)) for listener in front.listeners)
        return shown, refused, doubtful

    def _tell_addresses(self) -> None:
        """Log each address where listeners are served, once; of many listeners on one, the first."""
        by_url: dict[str, list[str]] = {}
        for row in self.rows:
            if row.url:
                by_url.setdefault(row.url, []).append(row.listener)
        told = {
            url: found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} more"
            for url, found in by_url.items()
        }
        for url, who in told.items():
            if self._told.get(url) != who:
                log.info("%s serves %s", url, who)
        self._told = told

    def _tell(self, before: Mapping[str, str]) -> None:
        for listener, why in {**self._doubtful, **self.refused}.items():
            if before.get(listener) != why:
                log.warning("listener %s: %s", listener, why)


def _words(door: Door, error: OSError) -> str:
    where = f"{door.hosts[0]}:{door.port}"
    if error.errno == errno.EADDRINUSE:
        fix = "Something else listens there: end it, or give the listener another port."
    elif error.errno in (errno.EACCES, errno.EPERM):
        fix = (
            "Allow this process ports below 1024 (the sysctl net.ipv4.ip_unprivileged_port_start=0, or CAP_NET_BIND_SERVICE), "
            "or give the listener a port of 1024 or more."
        )
    else:
        fix = "It is tried again every few seconds."
    why = os.strerror(error.errno) if error.errno else str(error)
    return f"Port {door.declared} cannot be opened at {where}: {why}. {fix}"


def _problem(listener: str, source: str, why: str) -> Problem:
    kind, _, rest = source.partition(" ")
    namespace, _, name = rest.partition("/")
    where = ObjectRef(kind, namespace, name) if name else ObjectRef("Gateway", *listener.split("/")[:2])
    what, _, fix = why.partition(". ")
    return Problem(
        where, f'.spec.listeners["{listener.rpartition("/")[2]}"]', REASON, f"{what}.", fix or "See the gateway's log."
    )


__all__ = ["Listener", "Ports", "Prepared"]
