"""Contexts for TLS clients of Snapshot listeners: which certificate for which name, which clients are let in.

A context is kept by what it is made of, over swaps: clients go on resuming their sessions until a certificate or an authority
changes, and not beyond, since OpenSSL's ticket keys are the context's. Where clients have to prove who they are there are no
tickets at all: each connection proves it anew.
Of several certificates for one name a context holds one of each kind of key; OpenSSL shows the one that the client understands.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nexus_core.snapshot import Certificate, ListenerTls

from nexus_gateway.edge.tls.keyring import Keyring, KeyUnusable, Opened, load_into
from nexus_gateway.edge.tls.policy import SERVER_ALPN, harden

_Made = tuple[tuple[Opened, ...], str, bool, str, bool]


class ListenerUnusable(Exception):
    """A listener cannot end TLS. The text says why and how to fix it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The contexts of one listener. exact, wildcards (without `*.`): by host name; other: for every other name, and for none."""

    exact: Mapping[str, Any]
    wildcards: Mapping[str, Any]
    other: Any

    def context(self, server_name: str) -> Any:
        """Return the context for the name that a client asks for: lower-case, empty for none. An `ssl.SSLContext`, or what stands
        in for one (`nexus_wire.tls.Ends`)."""
        found = self.exact.get(server_name)
        if found is None and self.wildcards:
            found = self.wildcards.get(server_name.partition(".")[2])
        return self.other if found is None else found


class Contexts:
    """All contexts in use."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._kept: dict[_Made, Any] = {}
        self._used: dict[_Made, Any] = {}

    def begin(self) -> None:
        """Begin a Snapshot: what is not asked for from here to `end` is forgotten there."""
        self._used = {}

    def end(self, certificates: Sequence[Certificate]) -> None:
        """Forget what this Snapshot does not use. certificates: all that it has."""
        self._kept = self._used
        self._keyring.keep(certificates)

    def build(
        self, tls: ListenerTls, certificates: Mapping[str, Certificate], *, http: bool
    ) -> tuple[Shown, tuple[str, ...]]:
        """Return what a listener shows, and sentences on those of its certificates that cannot be used while others can.

        certificates: of the Snapshot, by id. http: whether HTTP follows, which ALPN offers. Blocks for some milliseconds. Raises
        `ListenerUnusable`.
        """
        opened: list[Opened] = []
        wrong: list[str] = []
        for name in tls.certificates:
            certificate = certificates.get(name)
            try:
                if certificate is None:
                    raise KeyUnusable(f"{name} is not in the Snapshot.")
                found = self._keyring.open(certificate)
                self._context((found,), tls, http=http)  # does the key belong to it?
                opened.append(found)
            except KeyUnusable as error:
                wrong.append(str(error))
        if not opened:
            raise ListenerUnusable(
                " ".join(wrong)
                or "It has no certificate. Name a Secret of type kubernetes.io/tls in its certificateRefs."
            )
        exact: dict[str, Any] = {}
        wildcards: dict[str, Any] = {}
        for name in dict.fromkeys(name for each in opened for name in each.names):
            context = self._context(_best(opened, name), tls, http=http)
            if name.startswith("*."):
                wildcards[name[2:]] = context
            else:
                exact[name] = context
        first = opened[0]
        # Nobody is served by a name it has not: the first, and what of another kind of key is for the same names.
        alike = [each for each in opened if each is first or set(each.names) == set(first.names)]
        other = self._context(_of_each_kind(alike), tls, http=http)
        return Shown(exact, wildcards, other), tuple(wrong)

    def _context(self, opened: tuple[Opened, ...], tls: ListenerTls, *, http: bool) -> Any:
        made: _Made = (opened, tls.client_authorities, tls.client_optional, tls.minimum, http)
        context = self._used.get(made) or self._kept.get(made)
        if context is None:
            context = _build(opened, tls, http=http)
        self._used[made] = context
        return context


def _best(opened: Sequence[Opened], name: str) -> tuple[Opened, ...]:
    """Return those for a name, one of each kind of key: an exact name before a wildcard for it, then in the listener's order."""
    exact = [each for each in opened if name in each.names]
    wildcard = f"*.{name.partition('.')[2]}"
    return _of_each_kind([*exact, *(each for each in opened if wildcard in each.names)])


def _of_each_kind(opened: Sequence[Opened]) -> tuple[Opened, ...]:
    now = datetime.now(UTC)
    found: dict[str, Opened] = {}
    # Sorting keeps the order of those that are valid, and of those that are not any more.
    for each in sorted(opened, key=lambda each: each.not_after_utc <= now):
        found.setdefault(each.kind, each)
    return tuple(found.values())


def _build(opened: tuple[Opened, ...], tls: ListenerTls, *, http: bool) -> Any:
    alpn = SERVER_ALPN if http else ()
    if tls.client_authorities and tls.client_optional:
        # Here: pyOpenSSL takes 4 MB, and few listeners need it.
        from nexus_gateway.edge.tls.lenient import LenientContext

        try:
            return LenientContext(opened, tls, alpn)
        except ValueError as error:
            raise _no_authorities(error) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context, alpn)
    if tls.minimum == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    for each in opened:
        load_into(context, each)
    if tls.client_authorities:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=tls.client_authorities)
        except (ssl.SSLError, ValueError) as error:
            raise _no_authorities(error) from error
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def _no_authorities(error: Exception) -> ListenerUnusable:
    return ListenerUnusable(
        f"The authorities for its clients' certificates cannot be used ({error}). "
        "Write them as PEM, each between BEGIN CERTIFICATE and END CERTIFICATE."
    )
