"""Builds what a router looks things up in: from nothing, or from what a former Snapshot's router has and what is new.

A generator that pauses after each few microseconds of work, so that whoever drives it can let requests through.
Most changes touch one route of thousands: the entries of all others are the same objects as before, with their payloads, and the
tables of hostnames that nothing happened to are shared. A table is never changed after it is sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nexus_core.match import hosts
from nexus_core.match.tables import Entry, Table
from nexus_core.snapshot import Route, Rule

T = TypeVar("T")

_AT_ONCE = 8
"""Cheap steps between two pauses."""


@dataclass(frozen=True, slots=True)
class Built(Generic[T]):
    """entries: of each route, by its id. tables: sealed, by hostname pattern. distinct: whether no two routes share an id."""

    entries: dict[str, tuple[Entry[T], ...]]
    tables: dict[str, Table[T]]
    distinct: bool


def build(
    routes: Iterable[Route],
    payload: Callable[[Route, Rule], T],
    former: Built[T] | None,
    keeps: Callable[[Sequence[Entry[T]]], bool],
) -> Generator[None, None, Built[T]]:
    """Return what the routes give. former: what came before, None for nothing; entries of its routes that are still the same
    are taken where `keeps` of them is true. payload: called once for each rule that is built anew."""
    known = former.entries if former is not None and former.distinct else {}
    entries: dict[str, tuple[Entry[T], ...]] = {}
    added: list[Entry[T]] = []
    distinct = True
    for done, route in enumerate(routes):
        found = known.get(route.id)
        same = found and route.id not in entries and (found[0].route is route or found[0].route == route)
        if found and same and keeps(found):
            entries[route.id] = found
            if done % _AT_ONCE == 0:
                yield
            continue
        made: list[Entry[T]] = []
        listeners = frozenset(route.listeners)
        for index, rule in enumerate(route.rules):
            value = payload(route, rule)
            made += (
                Entry(route, rule, match, value, listeners, index, number) for number, match in enumerate(rule.matches)
            )
            yield
        added += made
        if route.id in entries:
            distinct = False
            made[:0] = entries[route.id]
        entries[route.id] = tuple(made)
    gone: list[Entry[T]] = []
    for done, (route_id, before) in enumerate(known.items()):
        if entries.get(route_id) is not before:
            gone += before
        if done % _AT_ONCE == 0:
            yield
    # Where much changed, beginning anew is less than taking out and putting in.
    if former is None or not distinct or 2 * len(gone) > len(added) + sum(map(len, known.values())) - len(gone):
        tables = yield from _file({}, (entry for each in entries.values() for entry in each))
    else:
        tables = yield from _without(former.tables, gone)
        tables = yield from _file(tables, added)
    return Built(entries, tables, distinct)


def _hostnames(entry: Entry[T]) -> Sequence[str]:
    return entry.route.hostnames or (hosts.ANY,)


def _without(tables: dict[str, Table[T]], gone: Sequence[Entry[T]]) -> Generator[None, None, dict[str, Table[T]]]:
    """Return the tables without these entries; those that had some are copies, not sealed."""
    lost: dict[str, set[Entry[T]]] = {}
    for done, entry in enumerate(gone):
        for hostname in _hostnames(entry):
            lost.setdefault(hostname, set()).add(entry)
        if done % _AT_ONCE == 0:
            yield
    tables = tables.copy()
    for hostname, entries in lost.items():
        former = tables.get(hostname)
        if former is None:
            continue  # all that was left there were expressions that cannot be read, which take no request and have no place
        tables[hostname] = table = former.copy()
        table.remove(entries)
        yield
        # Also when nothing is added: what is shared is sealed.
        table.seal()
        if table.empty:
            del tables[hostname]
    return tables


def _file(tables: dict[str, Table[T]], entries: Iterable[Entry[T]]) -> Generator[None, None, dict[str, Table[T]]]:
    """Return the tables with these entries as well, all sealed. tables: a dict of the caller's own; its tables stay as they are."""
    opened: dict[str, Table[T]] = {}
    for done, entry in enumerate(entries):
        for hostname in _hostnames(entry):
            table = opened.get(hostname)
            if table is None:
                former = tables.get(hostname)
                opened[hostname] = tables[hostname] = table = former.copy() if former is not None else Table()
            table.add(entry)
        if done % _AT_ONCE == 0:
            yield
    for table in opened.values():
        table.seal()
        yield
    return tables
