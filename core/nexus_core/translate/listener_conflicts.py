"""Listeners that cannot be told apart, and those whose host names overlap.

A Gateway and its ListenerSets share ports. What came first by precedence keeps what it has: the Gateway's own listeners, then those of
older ListenerSets. Between listeners of one object nothing says who is first, so none of those in conflict is accepted (Gateway API,
GatewaySpec.listeners, "Handling indistinct Listeners").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot.listeners import Protocol

FAMILIES = {"HTTP": "HTTP", "HTTPS": "TLS", "TLS": "TLS", "TCP": "TCP", "UDP": "UDP"}
"""Protocols of one family share a port, told apart by host name: HTTPS and TLS by the name a client's hello asks for."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a listener asks for. owner: the object that declares it. path: the listener there. hostname: lower-case, empty for any."""

    owner: ObjectRef
    path: str
    name: str
    port: int
    protocol: Protocol
    hostname: str

    @property
    def place(self) -> tuple[int, bool]:
        """The port, of TCP or of UDP: the two do not meet."""
        return self.port, self.protocol == "UDP"

    @property
    def family(self) -> str:
        """What it shares its port with."""
        return FAMILIES[self.protocol]


class Claims:
    """The ports of one Gateway."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, bool], Claim] = {}
        self._names: dict[tuple[tuple[int, bool], str], Claim] = {}

    def admit(self, claims: Sequence[Claim]) -> dict[str, Problem]:
        """Take the claims of one object. Returns those that are refused, by path."""
        refused: dict[str, Problem] = {}
        rest: dict[tuple[int, bool], list[Claim]] = {}
        for claim in claims:
            problem = self._against_earlier(claim)
            if problem is None:
                rest.setdefault(claim.place, []).append(claim)
            else:
                refused[claim.path] = problem
        for group in rest.values():
            refused |= _among_equals(group)
            for claim in group:
                if claim.path not in refused:
                    self._first.setdefault(claim.place, claim)
                    self._names.setdefault((claim.place, claim.hostname), claim)
        return refused

    def _against_earlier(self, claim: Claim) -> Problem | None:
        first = self._first.get(claim.place)
        if first is None:
            return None
        if first.family != claim.family:
            return _protocols(claim, first)
        same = self._names.get((claim.place, claim.hostname))
        return None if same is None else _same(claim, same)


def _among_equals(group: Sequence[Claim]) -> dict[str, Problem]:
    """The claims of one object to one port that cannot stand beside each other: all of them."""
    found: dict[str, Problem] = {}
    by_family: dict[str, list[Claim]] = {}
    for claim in group:
        by_family.setdefault(claim.family, []).append(claim)
    if len(by_family) > 1:
        for claim in group:
            other = next(each for each in group if each.family != claim.family)
            found[claim.path] = _protocols(claim, other)
        return found
    by_name: dict[str, list[Claim]] = {}
    for claim in group:
        by_name.setdefault(claim.hostname, []).append(claim)
    for alike in by_name.values():
        if len(alike) > 1:
            for claim in alike:
                found[claim.path] = _same(claim, alike[0] if claim is not alike[0] else alike[1])
    return found


def _whose(claim: Claim, other: Claim) -> str:
    return f'listener "{other.name}"' + ("" if other.owner == claim.owner else f" of {other.owner}")


def _protocols(claim: Claim, other: Claim) -> Problem:
    what = (
        f'Listener "{claim.name}" asks for {claim.protocol} at port {claim.port}, where {_whose(claim, other)} '
        f"has {other.protocol}."
    )
    return Problem(claim.owner, claim.path, "ProtocolConflict", what, "Give one of the two another port.")


def _same(claim: Claim, other: Claim) -> Problem:
    if claim.protocol != other.protocol or claim.protocol in ("TCP", "UDP"):
        what = (
            f'Listener "{claim.name}" and {_whose(claim, other)} have one port ({claim.port}) and nothing to tell '
            f"{claim.protocol} of the one from {other.protocol} of the other."
        )
        fix = "Give one of them another port." if claim.family != "TLS" else "Give them different host names, or ports."
        return Problem(claim.owner, claim.path, "ProtocolConflict", what, fix)
    name = f'host name "{claim.hostname}"' if claim.hostname else "host name (any)"
    what = f'Listener "{claim.name}" has the port and {name} of {_whose(claim, other)}.'
    return Problem(claim.owner, claim.path, "HostnameConflict", what, "Give it another, or remove one of the two.")


def overlaps(names: Iterable[tuple[str, int, str]]) -> dict[str, str]:
    """Return which listeners share clients: (id, port, host name) in; by id, a host name of the same port that covers its own or is
    covered by it. Connections may be reused across such names, and meet a certificate made for the other.
    """
    by_port: dict[int, dict[str, list[str]]] = {}
    for listener_id, port, hostname in names:
        by_port.setdefault(port, {}).setdefault(hostname, []).append(listener_id)
    found: dict[str, str] = {}
    for port in sorted(by_port):
        by_name = by_port[port]
        for hostname in sorted(by_name):
            for wider in _wider(hostname):
                if wider in by_name:
                    for listener_id in by_name[hostname]:
                        found.setdefault(listener_id, wider)
                    for listener_id in by_name[wider]:
                        found.setdefault(listener_id, hostname)
    return found


def _wider(hostname: str) -> Iterable[str]:
    """Yield the names that cover a host name, the narrowest first."""
    rest = hostname.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    if hostname:
        yield ""
