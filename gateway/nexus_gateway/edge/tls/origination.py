"""TLS to endpoints: one context for each policy, and the sessions that were made with it.

asyncio and uvloop have no argument for a session to resume, but both ask the context to make the connection's TLS object:
`ResumingContext` puts the last session of the same server name in there. Sessions are taken from connections that have
served (`remember`): with TLS 1.3 the ticket comes after the handshake.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from nexus_core.snapshot import UpstreamTls

from nexus_gateway.edge.tls.keyring import Opened, load_into
from nexus_gateway.edge.tls.policy import harden

MAX_CONTEXTS = 256
"""Contexts kept; each holds its authorities in memory (the system's: about 1 MB)."""
MAX_SESSIONS = 1024
"""Sessions kept for each context, by server name."""


class TlsInvalid(Exception):
    """A policy's authorities cannot be used. The text says what and how to fix."""


class ProvingObject(ssl.SSLObject):
    """A client's TLS object that is done only when the certificate has one of the names that its context wants."""

    def do_handshake(self) -> None:
        """Shake hands. Raises `ssl.SSLCertVerificationError` for a certificate without any of the names."""
        super().do_handshake()
        context: Any = self.context
        wanted: tuple[tuple[str, str], ...] = context.wanted
        found: Any = (self.getpeercert() or {}).get("subjectAltName", ())
        if not is_one_of(wanted, found):
            names = ", ".join(f"{kind}:{name}" for kind, name in wanted)
            raise ssl.SSLCertVerificationError(f"the certificate has none of the names {names}")


def is_one_of(wanted: Iterable[tuple[str, str]], found: Iterable[tuple[str, str]]) -> bool:
    """Return whether a certificate has one of the names that a policy wants.

    wanted: (`dns` or `uri`, value). found: as `getpeercert` gives `subjectAltName`. A `*.` at the beginning, of either's DNS name,
    stands for one label (RFC 9525 section 6.3); URIs are equal or not.
    """
    dns = {name.lower().rstrip(".") for kind, name in found if kind == "DNS"}
    uris = {name for kind, name in found if kind == "URI"}
    for kind, name in wanted:
        if kind == "uri":
            if name in uris:
                return True
            continue
        name = name.lower().rstrip(".")
        label, _, parent = name.partition(".")
        if name in dns or (label != "*" and parent and f"*.{parent}" in dns):
            return True
        if label == "*" and any(each.partition(".")[2] == parent for each in dns):
            return True
    return False


class ResumingContext(ssl.SSLContext):
    """A client's context that resumes the last session of each server name."""

    _sessions: OrderedDict[str, ssl.SSLSession]
    wanted: tuple[tuple[str, str], ...]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the TLS object of a connection, which begins where the last one to that name ended."""
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def remember(self, connection: Any) -> None:
        """Keep the session of a connection, if it can be resumed. connection: a transport's `ssl_object`, after its first
        response or when it closes."""
        name: str | None = connection.server_hostname
        session: ssl.SSLSession | None = connection.session
        # Without a ticket (and, in TLS 1.2, an id) the next handshake would be a full one all the same.
        if name is None or session is None or not session.has_ticket:
            return
        self._sessions[name] = session
        self._sessions.move_to_end(name)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)


class Originations:
    """The contexts of all policies in use, by value: a Snapshot with equal policies makes no new one."""

    def __init__(self) -> None:
        self._contexts: OrderedDict[tuple[UpstreamTls, str], ResumingContext] = OrderedDict()
        self._client: Opened | None = None

    def show(self, opened: Opened | None) -> bool:
        """Show this certificate to servers that ask for one, None for none; return whether it is another one than before."""
        if opened == self._client:
            return False
        self._client = opened
        self._contexts.clear()  # also their sessions, which were made with the former
        return True

    def try_out(self, opened: Opened) -> None:
        """Find out whether a certificate can be shown. Raises `KeyUnusable`."""
        load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), opened)

    def context(self, policy: UpstreamTls, protocol: str = "http") -> ResumingContext:
        """Return the context for a policy. Blocks for some milliseconds when the policy is new. Raises `TlsInvalid`.

        protocol: of the upstream; `h2` is offered alone, to be chosen or not.
        """
        key = policy, protocol
        context = self._contexts.get(key)
        if context is None:
            context = _build(policy)
            if protocol == "h2":
                context.set_alpn_protocols(["h2"])
            if self._client is not None:
                load_into(context, self._client)
            self._contexts[key] = context
            if len(self._contexts) > MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return context


def server_name(policy: UpstreamTls, host: str, address: str) -> str:
    """Return the name to ask for and to verify. host: the request's, without port; address: the endpoint's, as a last resort."""
    return policy.server_name or host or address


def _build(policy: UpstreamTls) -> ResumingContext:
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context._sessions = OrderedDict()
    context.wanted = ()
    harden(context)
    if not policy.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if policy.subject_alt_names:
        context.check_hostname = False
        context.wanted = policy.subject_alt_names
        context.sslobject_class = ProvingObject
    if not policy.ca:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cadata=policy.ca)
    except (ssl.SSLError, ValueError) as error:
        raise TlsInvalid(
            f"The authorities of the upstream's TLS policy cannot be used ({error}). "
            "Write certificates in PEM, each between BEGIN CERTIFICATE and END CERTIFICATE."
        ) from error
    return context
