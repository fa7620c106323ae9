"""Routes of the Gateway API, as `nexus up` shows them: where each can be asked, and how. Pure.

Of a NexusService's own route `screen` tells, beside the service.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nexus_core.match import hosts
from nexus_core.snapshot import Match, Route, Snapshot, StreamRoute

if TYPE_CHECKING:
    from nexus_gateway.edge.listeners.shown import ListenerRow

SHOWN = 20
"""Rows of the table; `-o json` has all."""


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route at one listener. hostnames: of the route that the listener serves, in order; empty for any. url: of the listener,
    `scheme://host:port`; empty while it is not open. route: as in the Snapshot."""

    hostnames: tuple[str, ...]
    url: str
    route: Route | StreamRoute

    @property
    def name(self) -> str:
        """Kind, namespace and name: `HTTPRoute shop/web`."""
        return self.route.source


def rows(snapshot: Snapshot, listeners: Sequence[ListenerRow]) -> list[RouteRow]:
    """Return every route of the Gateway API at each of its listeners, by the route's id and the listener's."""
    open_at = {row.listener: row for row in listeners}
    found: list[RouteRow] = []
    every: list[Route | StreamRoute] = [*snapshot.routes, *snapshot.streams]
    for route in sorted(every, key=lambda each: each.id):
        if route.id.startswith("NexusService/"):
            continue
        for listener in (open_at[each] for each in route.listeners if each in open_at):
            names = tuple(_names(route, listener.hostname))
            if names or not route.hostnames:
                found.append(RouteRow(names, listener.url, route))
    return found


def table(found: Sequence[RouteRow]) -> list[tuple[str, ...]]:
    """Return the rows of the table: route, host, address."""
    made: list[tuple[str, ...]] = [
        (row.name, ", ".join(row.hostnames) or "any", row.url or "not open") for row in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        made.append((f"and {len(found) - SHOWN} more", "", ""))
    return made


def values(found: Sequence[RouteRow]) -> list[dict[str, Any]]:
    """Return the same as values, for `-o json`."""
    return [{"route": row.name, "hostnames": list(row.hostnames), "url": row.url} for row in found]


def commands(found: Sequence[RouteRow], nexus: str, admin: str) -> list[tuple[str, str]]:
    """Return `(command, what it does)`: a request to the first route that curl can ask, and who takes it.

    nexus: how that is called here. admin: the option that names the admin API, with a space before it, or nothing.
    HTTP in clear comes before HTTPS, which needs options; without any of them the first connection is told of.
    """
    asked = [(row, match) for row in found if row.url and (match := _plain_match(row.route)) is not None]
    for scheme in ("http", "https"):
        for row, match in asked:
            parts = urlsplit(row.url)
            if parts.scheme == scheme:
                host = _example(row.hostnames)
                named = shlex.quote(_named(row.url, host) + match.path)
                return [
                    (_curl(row.url, host, match.path), row.name),
                    (f"{nexus} explain {named}{admin}", "who takes it, and why"),
                ]
    for row in found:
        if row.url and isinstance(row.route, StreamRoute):
            named = shlex.quote(_named(row.url, _example(row.hostnames)))
            return [(f"{nexus} explain {named}{admin}", f"who takes connections: {row.name}")]
    return []


def _names(route: Route | StreamRoute, listener: str) -> Iterator[str]:
    """The route's host names that the listener's covers; where the route has none, the listener's."""
    if not route.hostnames and listener:
        yield listener
    # A wildcard is covered as if its star were a label.
    yield from (name for name in route.hostnames if name == listener or hosts.covers(listener, name))


def _plain_match(route: Route | StreamRoute) -> Match | None:
    """Return the first match that a GET of its path fulfils."""
    if not isinstance(route, Route) or not route.id.startswith("HTTPRoute/"):
        return None
    for rule in route.rules:
        for match in rule.matches:
            if match.path_kind != "regex" and match.method in ("", "GET") and not match.headers and not match.query:
                return match
    return None


def _example(hostnames: Sequence[str]) -> str:
    """Return a name that a client could ask for; empty when any does."""
    return hostnames[0].replace("*.", "www.", 1) if hostnames else ""


def _named(url: str, host: str) -> str:
    """Return a listener's URL with the name that a client asks for in the place of its address; with the address for none."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{host}:{parts.port}" if host else url


def _curl(url: str, host: str, path: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "http":
        named = f" -H {shlex.quote(f'host: {host}')}" if host else ""
        return f"curl -i{named} {shlex.quote(url + path)}"
    if not host:
        return f"curl -ik {shlex.quote(url + path)}"
    at = parts.hostname or ""
    at = f"[{at}]" if ":" in at else at
    there = shlex.quote(f"{host}:{parts.port}:{at}")
    return f"curl -ik --resolve {there} {shlex.quote(_named(url, host) + path)}"
