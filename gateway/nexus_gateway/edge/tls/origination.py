"""TLS to endpoints: one context for each policy, and the sessions that were made with it.

asyncio and uvloop have no argument for a session to resume, but both ask the context to make the connection's TLS object:
`ResumingContext` puts the last session of the same server name in there. Sessions are taken from connections that have
served (`remember`): with TLS 1.3 the ticket comes after the handshake.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from typing import Any

from nexus_core.snapshot import UpstreamTls

from nexus_gateway.edge.tls.policy import harden

MAX_CONTEXTS = 256
"""Contexts kept; each holds its authorities in memory (the system's: about 1 MB)."""
MAX_SESSIONS = 1024
"""Sessions kept for each context, by server name."""


class TlsInvalid(Exception):
    """A policy's authorities cannot be used. The text says what and how to fix."""


class ResumingContext(ssl.SSLContext):
    """A client's context that resumes the last session of each server name."""

    _sessions: OrderedDict[str, ssl.SSLSession]

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
        self._contexts: OrderedDict[UpstreamTls, ResumingContext] = OrderedDict()

    def context(self, policy: UpstreamTls) -> ResumingContext:
        """Return the context for a policy. Blocks for some milliseconds when the policy is new. Raises `TlsInvalid`."""
        context = self._contexts.get(policy)
        if context is None:
            context = self._contexts[policy] = _build(policy)
            if len(self._contexts) > MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(policy)
        return context


def server_name(policy: UpstreamTls, host: str, address: str) -> str:
    """Return the name to ask for and to verify. host: the request's, without port; address: the endpoint's, as a last resort."""
    return policy.server_name or host or address


def _build(policy: UpstreamTls) -> ResumingContext:
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context._sessions = OrderedDict()
    harden(context)
    if not policy.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
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
