"""What an exchange knows of its request, whoever asks: its parts, hash keys, log and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_core.match.router import Entry
from nexus_wire.http1 import RequestBlock, RequestLine
from nexus_wire.server import Stream

from nexus_gateway.edge import requests
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.extras import Extras
from nexus_gateway.edge.hooked import Hooked
from nexus_gateway.edge.outlet import Outlet
from nexus_gateway.edge.phases import Phases
from nexus_gateway.edge.plugins.slots import MESSAGES
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend, Plan, Runtime
from nexus_gateway.filters import grpc
from nexus_gateway.resilience import deadlines
from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.telemetry.finished import Finished

if TYPE_CHECKING:
    from nexus_gateway.edge.conversations import Conversation
    from nexus_gateway.edge.heads import ArrivedHead
    from nexus_gateway.edge.proxy import Proxy


class Standing:
    """What is known of a request being served.

    status: 0 until answered. reason: why the gateway answered itself, or broke off; empty otherwise. attempts: made so far.
    limited: the bulkhead in which it has a place.
    complete: whether the request body has come in full. replayable: whether it can be sent from its first byte.
    head: as plugins left it that do nothing but add to it; None where there are none.
    started_at, deadline_at: monotonic seconds; deadline_at 0 for never. lines: the request's head for upstream, empty until composed.
    """

    __slots__ = (
        "attempt", "attempts", "backend", "block", "body", "bytes_in", "bytes_out", "complete", "context", "deadline_at", "entry",
        "extra", "head", "hooked", "limited", "line", "lines", "over", "plan", "pool", "proxy", "reason", "replayable", "request_id",
        "responding", "runtime", "started_at", "status", "stream",
    )  # fmt: skip

    proxy: Proxy
    stream: Stream
    runtime: Runtime
    line: RequestLine
    block: RequestBlock
    plan: Plan
    entry: Entry[Plan] | None
    hooked: Hooked | None
    head: ArrivedHead | None
    attempt: Attempt | None
    extra: Extras | None
    backend: Backend | None
    pool: Pool | None
    context: bytes
    request_id: bytes
    status: int
    reason: str
    attempts: int
    responding: bool
    over: bool
    limited: Limiter | None
    complete: bool
    bytes_in: int
    bytes_out: int
    started_at: float
    deadline_at: float
    replayable: bool
    body: bytes
    lines: bytes

    def extras(self) -> Extras:
        """Return the exchange's extras, made when first needed."""
        extra = self.extra
        if extra is None:
            extra = self.extra = Extras()
        return extra

    @property
    def phases(self) -> Phases | None:
        """What plugins do to it beyond its heads."""
        hooked = self.hooked
        return hooked.phases if hooked is not None else None

    @property
    def outlet(self) -> Outlet | None:
        """Its response's way through plugins that change bodies."""
        phases = self.phases
        return phases.outlet if phases is not None else None

    @property
    def trailers(self) -> bytes:
        """Those of its raw body, when all of it is here: lines, each with CRLF."""
        phases = self.phases
        found = phases.intake.trailers if phases is not None and phases.intake is not None else None
        return self.stream.trailers if found is None else found

    @property
    def content_in(self) -> int:
        """How much of the request's body has come, or is announced by the chunk that is coming: without the chunks' framing."""
        stream = self.stream
        return self.bytes_in if stream.block.length != -1 else stream.content

    @property
    def upstream_id(self) -> str:
        """The upstream that was chosen; empty before."""
        return self.pool.upstream.id if self.pool is not None else ""

    @property
    def host(self) -> str:
        """The host that the client asks for, without port."""
        line = self.line
        return self.block.host if not line.authority else requests.authority_of(line, self.block)[1]

    @property
    def hostless(self) -> bool:
        """Whether `lines` need a Host, of which HTTP/1.1 has just one: an HTTP/1.0 client sent none, and no plugin or filter set one."""
        return not (self.block.authority or self.line.authority or b"\r\nhost:" in self.lines.lower())

    @property
    def head_only(self) -> bool:
        """Whether it is a HEAD request."""
        return self.line.method == "HEAD"

    @property
    def tunnelled(self) -> bool:
        """Whether the connection was upgraded."""
        return self.extra is not None and self.extra.tunnel

    @property
    def conversation(self) -> Conversation | None:
        """The WebSocket's messages, where plugins see them."""
        return self.extra.conversation if self.extra is not None else None

    @property
    def is_overheard(self) -> bool:
        """Whether plugins see the messages of a WebSocket that comes of it."""
        phases = self.hooked.phases if self.hooked is not None else None
        return phases is not None and bool(phases.bits & MESSAGES)

    @property
    def upgrades(self) -> bool:
        """Whether the client asked for a WebSocket. HTTP/1.0 cannot (RFC 9110 section 7.8)."""
        return self.block.upgrade == b"websocket" and self.line.method == "GET" and self.line.minor == 1

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC call."""
        return grpc.is_call(self.block.first("content-type"))

    @property
    def hurried(self) -> bool:
        """Whether its client allows less time than the route does."""
        aside, backend = self.block.aside, self.backend
        client_s = deadlines.client_timeout_s(aside) if aside is not None else None
        request_s = backend.timeouts.request_s if backend is not None else 0.0
        return client_s is not None and (not request_s or client_s < request_s)

    @property
    def outcome_status(self) -> int:
        """The status that says how it went: HTTP's, or what upstream's gRPC status means in its place. 0 until answered."""
        extra = self.extra
        return extra.meant if extra is not None and extra.meant and self.status == 200 else self.status

    def took_service_probe(self) -> bool:
        """Return whether it holds a probe's place in the service's circuit; the verdict that follows gives it back."""
        extra = self.extra
        if extra is None or not extra.service_probe:
            return False
        extra.service_probe = False
        return True

    def finished(self, now: float) -> Finished:
        """Return what log and traces keep of the exchange. For those that are wanted there, when it is over."""
        entry = self.entry
        tried = list(self.extra.failed) if self.extra is not None else []
        if self.attempt is not None and self.attempt not in tried:
            tried.append(self.attempt)
        tried.sort(key=lambda attempt: attempt.number)
        forwarding = self.proxy.forwarding
        peer, aside = self.stream.context, self.block.aside
        return Finished(
            self.line,
            self.block,
            forwarding.client_ip(peer, aside),
            self.request_id,
            self.context,
            self.started_at,
            now,
            self.status,
            self.reason,
            entry.route.id if entry is not None else "",
            entry.rule.id if entry is not None else "",
            self.upstream_id,
            tuple(each.tried(now) for each in tried),
            self.bytes_in,
            self.bytes_out,
            forwarding.scheme(peer, aside),
            tuple(self.hooked.times or ()) if self.hooked is not None else (),
            self._grpc_status(),
        )

    def _grpc_status(self) -> str | bytes:
        """Return the status of a gRPC call that was answered, digits; empty for none."""
        if self.extra is not None and self.extra.grpc:
            return self.extra.grpc
        attempt = self.attempt
        connection = attempt.connection if attempt is not None and attempt.status else None
        # It stays there until the connection's next response, which cannot have come since this one's end.
        return connection.grpc if connection is not None else b""

    # ---- what hash keys see

    def header(self, name: str) -> str | None:
        """Return a request header as received, repeats joined. name: lower-case."""
        return self.block.joined.get(name)

    @property
    def query(self) -> str:
        """The raw query."""
        return self.line.query

    @property
    def client_ip(self) -> str:
        """The client's address, as trusted proxies tell it."""
        return self.proxy.forwarding.client_ip(self.stream.context, self.block.aside)
