"""From the listeners of a Snapshot to the ports of one process: what is bound, who shares a port, who cannot be served.

Pure: nothing is opened here. Words: a *door* is one port to accept at; a *front* is what a TLS client of a door gets that asks
for a name; a *site* is where HTTP requests come: a door in clear, or a front that ends TLS. Each has a key that stays the same as
long as it is the same place, whatever is served there.

Of listeners that exclude each other the one with the smaller id is served, the other refused with a sentence. Translation
refuses conflicts within a Gateway; here only those remain between several Gateways that one process serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from nexus_core.match import hosts
from nexus_core.snapshot import Listener, ListenerTls

Family = Literal["http", "tls", "tcp", "udp"]
FAMILIES: Mapping[str, Family] = {"HTTP": "http", "HTTPS": "tls", "TLS": "tls", "TCP": "tcp", "UDP": "udp"}

PLAIN = "listen"
"""Key of the door that the settings name for HTTP."""
SECURE = "tls-listen"
"""Key of the one for TLS."""
CERTIFICATES = "tls-listen/certificates"
"""Key of the site behind certificates from a directory."""
PRIVILEGED = 1024
SHIFT = 8000
"""Added to ports below `PRIVILEGED` where ports are not bound as declared: 80 → 8080, 443 → 8443, 53 → 8053."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where HTTP requests come. listeners: of the port; hostname: of the one that TLS chose, None where it chose none.

    port: as declared, 0 for none. elsewhere: whether another one is bound for it, so that only clients know which they use.
    """

    key: str
    listeners: tuple[Listener, ...]
    hostname: str | None = None
    port: int = 0
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Front:
    """What TLS clients get that ask for a name which this is the most specific one for.

    hostname: empty for any. ends: whether TLS ends here; http: whether HTTP is spoken then, else bytes. listeners: one, or one each of
    several Gateways. tls: of the first, with the certificates of all.
    """

    key: str
    hostname: str
    ends: bool
    http: bool
    listeners: tuple[Listener, ...]
    tls: ListenerTls


@dataclass(frozen=True, slots=True)
class Door:
    """One port to accept at, on each of `hosts`. port: to bind, 0 for any free one. declared: of its listeners, 0 when it has none.

    fronts: by host name, of the family tls.
    """

    key: str
    hosts: tuple[str, ...]
    port: int
    declared: int
    family: Family
    listeners: tuple[Listener, ...] = ()
    fronts: Mapping[str, Front] = field(default_factory=dict)

    def front(self, server_name: str) -> Front | None:
        """Return the front for the name that a client asks for, empty for none; None where nobody serves it."""
        fronts = self.fronts
        return next((fronts[pattern] for pattern in hosts.chain(fronts, server_name)), None)


@dataclass(frozen=True, slots=True)
class Addresses:
    """How ports are bound. declared: as the listeners say, on `hosts`, each of them; else as `nexus gateway` does on one machine:
    `plain` takes the listeners of HTTP port 80 (without one: of the lowest), `secure` those of TLS port 443 (likewise), every other
    port is bound on the host of `plain` as it is, or shifted when it is below `PRIVILEGED`.

    secure: None takes port 8443 on the host of `plain` once there is a listener for it. always_secure: it is open without one, too.
    """

    declared: bool
    hosts: tuple[str, ...]
    plain: tuple[str, int]
    secure: tuple[str, int] | None = None
    always_secure: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """doors: by key. sites: by key. refused: listeners that cannot be served, with a sentence each."""

    doors: Mapping[str, Door]
    sites: Mapping[str, Site]
    refused: Mapping[str, str]


def build(listeners: Iterable[Listener], addresses: Addresses) -> Plan:
    """Return what a process opens for these listeners. listeners: all that it serves, in any order."""
    refused: dict[str, str] = {}
    by_port: dict[tuple[bool, int], list[Listener]] = {}
    for listener in sorted(listeners, key=lambda each: each.id):
        by_port.setdefault((listener.protocol == "UDP", listener.port), []).append(listener)
    ports: dict[tuple[bool, int], tuple[Family, list[Listener]]] = {}
    for key, found in by_port.items():
        ports[key] = FAMILIES[found[0].protocol], _agree(found, refused)
    doors = dict(_doors(ports, addresses, refused))
    sites: dict[str, Site] = {}
    for door in doors.values():
        if door.family == "http":
            sites[door.key] = Site(door.key, door.listeners, None, door.declared, door.port != door.declared)
        for front in door.fronts.values():
            if front.ends and front.http:
                elsewhere = door.port != door.declared
                sites[front.key] = Site(front.key, door.listeners, front.hostname, door.declared, elsewhere)
    if addresses.always_secure and PLAIN in doors:
        plain = doors[PLAIN]
        sites[CERTIFICATES] = Site(
            CERTIFICATES, plain.listeners, None, 443, SECURE in doors and doors[SECURE].port != 443
        )
    return Plan(doors, sites, refused)


def _agree(found: list[Listener], refused: dict[str, str]) -> list[Listener]:
    """Return those of one port that can share it. found: by id."""
    first = found[0]
    family = FAMILIES[first.protocol]
    kept: list[Listener] = []
    for listener in found:
        if FAMILIES[listener.protocol] != family:
            refused[listener.id] = (
                f"Port {listener.port} takes {first.protocol} for the listener {first.id}; {listener.protocol} cannot share it. "
                "Give one of them another port."
            )
        elif kept and family in ("tcp", "udp"):
            refused[listener.id] = (
                f"Port {listener.port} is the listener {first.id}'s, and {listener.protocol} has no names to tell the two apart. "
                "Give one of them another port."
            )
        else:
            kept.append(listener)
    return kept


def _doors(
    ports: Mapping[tuple[bool, int], tuple[Family, list[Listener]]], addresses: Addresses, refused: dict[str, str]
) -> Iterable[tuple[str, Door]]:
    if addresses.declared:
        for (is_udp, port), (family, found) in sorted(ports.items()):
            yield _open(_key(is_udp, port), addresses.hosts, port, port, family, found, refused)
        return
    plain_port = _main(ports, "http", 80)
    secure_port = _main(ports, "tls", 443)
    host, port = addresses.plain
    _, found = ports.get((False, plain_port), ("http", []))
    yield _open(PLAIN, (host,), port, plain_port, "http", found, refused)
    taken = {(False, port): PLAIN} if port else {}
    if secure_port or addresses.always_secure:
        secure = addresses.secure or (host, 8443 if port else 0)
        _, found = ports.get((False, secure_port), ("tls", []))
        yield _open(SECURE, (secure[0],), secure[1], secure_port, "tls", found, refused)
        if secure[1]:
            taken[False, secure[1]] = SECURE
    for (is_udp, declared), (family, found) in sorted(ports.items()):
        if not is_udp and declared in (plain_port, secure_port):
            continue
        port = declared if declared >= PRIVILEGED else declared + SHIFT
        key = _key(is_udp, port)
        other = taken.setdefault((is_udp, port), key)
        if other != key:
            for listener in found:
                refused[listener.id] = (
                    f"Port {declared} would be opened at {port} here, which is taken by another listener's ({other}). "
                    "Give it another port, or move --listen or --tls-listen."
                )
            continue
        taken[is_udp, port] = f"port {declared}"
        yield _open(key, (host,), port, declared, family, found, refused)


def _key(is_udp: bool, port: int) -> str:
    return f"udp:{port}" if is_udp else f"tcp:{port}"


def _main(ports: Mapping[tuple[bool, int], tuple[Family, list[Listener]]], family: Family, usual: int) -> int:
    """Return the port that goes where the settings say; 0 for none."""
    found = [port for (is_udp, port), (of, _) in ports.items() if not is_udp and of == family]
    return usual if usual in found else min(found, default=0)


def _open(
    key: str,
    on: tuple[str, ...],
    port: int,
    declared: int,
    family: Family,
    found: list[Listener],
    refused: dict[str, str],
) -> tuple[str, Door]:
    if family != "tls":
        return key, Door(key, on, port, declared, family, tuple(found))
    fronts: dict[str, Front] = {}
    served: list[Listener] = []
    for listener in found:
        tls = listener.tls or ListenerTls()
        front = fronts.get(listener.hostname)
        http = listener.protocol == "HTTPS"
        ends = http or tls.mode == "terminate"
        if front is None:
            fronts[listener.hostname] = Front(
                f"{key}/{listener.hostname}", listener.hostname, ends, http, (listener,), tls
            )
        elif (ends, http) != (front.ends, front.http) or _clients(tls) != _clients(front.tls):
            name = f'the name "{listener.hostname}"' if listener.hostname else "clients of any name"
            refused[listener.id] = (
                f"The listener {front.listeners[0].id} serves {name} on port {listener.port} in another way "
                "(protocol, TLS mode, or which clients it lets in). Give one of them another host name or port."
            )
            continue
        else:
            both = tuple(dict.fromkeys((*front.tls.certificates, *tls.certificates)))
            fronts[listener.hostname] = Front(
                front.key, front.hostname, ends, http, (*front.listeners, listener),
                msgspec.structs.replace(front.tls, certificates=both),
            )  # fmt: skip
        served.append(listener)
    return key, Door(key, on, port, declared, family, tuple(served), fronts)


def _clients(tls: ListenerTls) -> ListenerTls:
    """Return what of TLS decides who is let in."""
    return msgspec.structs.replace(tls, certificates=())
