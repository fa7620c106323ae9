"""Where each listener of one process is, for people: the log, the admin API, `nexus up`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nexus_core.snapshot import Listener

from nexus_gateway.edge.listeners.plans import Plan

SCHEMES = {"HTTP": "http", "HTTPS": "https", "TLS": "tls", "TCP": "tcp", "UDP": "udp"}
"""What a listener's address begins with, by its protocol."""
_ANY = {"0.0.0.0", "::"}


@dataclass(frozen=True, slots=True)
class ListenerRow:
    """One listener. port: as declared. bound: the one that is open, 0 while none is. url: `scheme://host:port` of it, empty while it
    is not served. problem: why it is not served, or what is wrong with it; empty when all is well."""

    listener: str
    source: str
    protocol: str
    hostname: str
    port: int
    bound: int = 0
    url: str = ""
    problem: str = ""


def rows(
    listeners: Iterable[Listener],
    plan: Plan,
    bound: Mapping[str, int],
    refused: Mapping[str, str],
    doubtful: Mapping[str, str],
) -> tuple[ListenerRow, ...]:
    """Return every listener, by id. bound: ports by door. refused: why listeners are not served, doubtful: what is wrong with those
    that are; both by listener."""
    doors = {listener.id: door for door in plan.doors.values() for listener in door.listeners}
    found = []
    for listener in sorted(listeners, key=lambda each: each.id):
        why = refused.get(listener.id, "")
        door = doors.get(listener.id)
        port = bound.get(door.key, 0) if door is not None else 0
        url = address(SCHEMES[listener.protocol], door.hosts[0], port) if door is not None and port and not why else ""
        found.append(
            ListenerRow(
                listener.id,
                listener.source,
                listener.protocol,
                listener.hostname,
                listener.port,
                port if url else 0,
                url,
                why or doubtful.get(listener.id, ""),
            )
        )
    return tuple(found)


def address(scheme: str, host: str, port: int) -> str:
    """Return `scheme://host:port`, with a host that one can connect to."""
    shown = ("::1" if ":" in host else "127.0.0.1") if host in _ANY else host
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
