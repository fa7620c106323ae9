"""What an exchange does towards its client: passes a response on, answers itself, breaks off, and ends.

Whatever happens, `_over` runs exactly once for each exchange, and `Attempt.release` exactly once for each attempt.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

from nexus_core.hooks import Reply, ResponseHead
from nexus_core.match.router import Entry
from nexus_wire.http1 import RequestBlock, RequestLine, ResponseBlock, StatusLine
from nexus_wire.server import ServerConnection

from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.hooked import Hooked
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend, Plan, Runtime
from nexus_gateway.filters.cors import CorsFilter
from nexus_gateway.filters.sizes import Verdict, judge_response
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry.finished import Finished

if TYPE_CHECKING:
    from nexus_gateway.edge.proxy import Proxy

log = logging.getLogger("nexus.gateway")

CLIENT_CLOSED = 499
"""What logs and metrics show for a client that left before the answer; nginx made the number common."""
_CLOSING = frozenset({"BadRequest", "BodyTimeout", "MethodRefused", "HeadTooLarge", "BodyTooLarge"})


class Extras:
    """What only some exchanges have; the others do not pay for it.

    hedge: the second attempt beside the first. tried: authorities. failed: attempts that brought nothing. sticky: the session's
    endpoint. picked: the balancer's choice for the first attempt, already made. hash_key: for hashing balancers.
    response_lines: added to the response's head. holding: pieces of a body that is collected before it is sent. pending: pieces
    that nobody takes yet. delay: until the next step. waiting: for a first endpoint. queued: for a place in the upstream's
    bulkhead. service_probe: it tests the whole service's half-open circuit. fell_back: it is at the
    rule's fallback. until_body: nothing is sent until the body is complete. tunnel: it was upgraded. debug: its client may be told.
    """

    __slots__ = (
        "debug", "delay", "failed", "fell_back", "hash_key", "hedge", "holding", "pending", "pending_bytes",
        "picked", "queued", "response_lines", "service_probe", "sticky", "tried", "tunnel", "until_body", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.hedge: Attempt | None = None
        self.tried: set[str] | None = None
        self.failed: list[Attempt] = []
        self.sticky: EndpointState | None = None
        self.picked: EndpointState | None = None
        self.hash_key = b""
        self.response_lines = b""
        self.holding: list[bytes] | None = None
        self.pending: list[bytes] | None = None
        self.pending_bytes = 0
        self.delay: asyncio.TimerHandle | None = None
        self.waiting: asyncio.TimerHandle | None = None
        self.queued = False
        self.service_probe = False
        self.fell_back = False
        self.until_body = False
        self.tunnel = False
        self.debug = False


class Answering:
    """The client's side of an exchange.

    status: 0 until answered. reason: why the gateway answered itself, or broke off; empty otherwise. attempts: made so far.
    limited: it has a place in its upstream's bulkhead.
    complete: whether the request body has come in full. replayable: whether it can be sent from its first byte.
    started_at, deadline_at: monotonic seconds; deadline_at 0 for never. lines: the request's head for upstream, empty until composed.
    """

    __slots__ = (
        "attempt", "attempts", "backend", "block", "body", "bytes_in", "bytes_out", "complete", "context", "deadline_at", "entry",
        "extra", "hooked", "limited", "line", "lines", "over", "plan", "pool", "proxy", "reason", "replayable", "request_id",
        "responding", "runtime", "started_at", "status", "stream",
    )  # fmt: skip

    proxy: Proxy
    stream: ServerConnection
    runtime: Runtime
    line: RequestLine
    block: RequestBlock
    plan: Plan
    entry: Entry[Plan] | None
    hooked: Hooked | None
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
    limited: bool
    complete: bool
    bytes_in: int
    bytes_out: int
    started_at: float

    def extras(self) -> Extras:
        """Return the exchange's extras, made when first needed."""
        extra = self.extra
        if extra is None:
            extra = self.extra = Extras()
        return extra

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
    def head_only(self) -> bool:
        """Whether it is a HEAD request."""
        return self.line.method == "HEAD"

    @property
    def tunnelled(self) -> bool:
        """Whether the connection was upgraded."""
        return self.extra is not None and self.extra.tunnel

    @property
    def upgrades(self) -> bool:
        """Whether the client asked for a WebSocket. HTTP/1.0 cannot (RFC 9110 section 7.8)."""
        return self.block.upgrade == b"websocket" and self.line.method == "GET" and self.line.minor == 1

    def took_service_probe(self) -> bool:
        """Return whether it holds a probe's place in the service's circuit; the verdict that follows gives it back."""
        extra = self.extra
        if extra is None or not extra.service_probe:
            return False
        extra.service_probe = False
        return True

    # ---- a response from upstream

    def answered(
        self,
        attempt: Attempt,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: bytes,
        complete: bool,
        now: float,
    ) -> None:
        """Pass a response on to the client. The attempt is the winner; any other one is called off."""
        self.responding = True
        backend = self.backend
        if not complete or self.extra is not None or backend is None or not backend.passes:
            self._answered(attempt, status, block, length, data, complete)
            return
        # What nearly all responses are: all here, and nothing of them is the gateway's business but what hooks make of it.
        code, line = status.code, status.line
        lines = block.forward if block.has_date else block.forward + self.proxy.date_line
        hooked = self.hooked
        if hooked is not None and hooked.answers:
            came = ResponseHead(code, block.headers)
            answer = hooked.respond_at_once(came)
            if answer is None:
                self._wait_for_hooks(attempt, status, block, length, data, complete, came)
                return
            if answer is not came:
                added = hooked.lines
                if added is not None and (block.has_date or b"date:" not in added):
                    lines += added
                else:
                    code, line, lines = self._changed(status, block, came, answer)
        self.status = code
        self.bytes_out = len(data)
        self.over = True
        attempt.release()
        if self.limited:
            self.release_limiter(now - attempt.started_at, now, ok=code < 500)
        self.proxy.ended(self, now)
        self.stream.respond(line, lines, length, data, True)

    def _answered(
        self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int, data: bytes, complete: bool
    ) -> None:
        self.reason = ""
        extra = self.extra
        if extra is not None and extra.hedge is not None:
            if attempt is extra.hedge:
                self.attempt, extra.hedge = attempt, self.attempt
            self.drop_hedge()
        backend = self.backend
        assert backend is not None
        if backend.sessions is not None and (extra is None or extra.sticky is not attempt.endpoint):
            lines = backend.sessions.lines(attempt.endpoint, self.proxy.now_unix(), secure=self.stream.secure)
            self.extras().response_lines += lines
        size = self.plan.size
        if (
            size is not None
            and judge_response(size, length, len(data) if length != -1 else self._content_out(attempt), begun=False)
            is not Verdict.PASS
        ):
            self.call_off()
            self.refuse("ResponseTooLarge")
        elif self.hooked is not None or status.code == 101:
            self._respond_hooked(attempt, status, block, length, data, complete)
        else:
            self._pass_on(attempt, status.code, status.line, self._lines(status.code, block), length, data, complete)

    def _lines(self, status: int, block: ResponseBlock) -> bytes:
        """Return a response's header lines, as the rule's filters leave them."""
        lines = block.forward if block.has_date else block.forward + self.proxy.date_line
        backend = self.backend
        if (
            self.hooked is None
            and backend is not None
            and backend.lane is not None
            and backend.lane.response is not None
        ):
            lines = backend.lane.response.apply_bytes(lines)
        return lines if self.extra is None else lines + self._added_lines(status)

    def _added_lines(self, status: int) -> bytes:
        """Return what the gateway adds to a response's head: a new session, and what a signed token asks for."""
        extra = self.extra
        if extra is None:
            return b""
        return extra.response_lines + self.proxy.debugging.lines(self, status) if extra.debug else extra.response_lines

    def _pass_on(
        self, attempt: Attempt, code: int, status_line: bytes, lines: bytes, length: int, data: bytes, complete: bool
    ) -> None:
        self.status = code
        self.bytes_out = len(data)
        stream = self.stream
        if complete:
            self._over(attempt)
            stream.respond(status_line, lines, length, data, True)
            return
        assert self.backend is not None
        stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
        stream.respond(status_line, lines, length, data, False)
        if stream.blocked:
            attempt.pause()

    def _respond_hooked(
        self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int, data: bytes, complete: bool
    ) -> None:
        """Run response filters and plugins; the body waits meanwhile."""
        came = ResponseHead(status.code, block.headers)
        answer = self.hooked.respond_at_once(came) if self.hooked is not None else came
        if answer is None:
            self._wait_for_hooks(attempt, status, block, length, data, complete, came)
        else:
            self._go_on(attempt, status, block, length, data, complete, came, answer)

    def _wait_for_hooks(
        self,
        attempt: Attempt,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: bytes,
        complete: bool,
        came: ResponseHead,
    ) -> None:
        """An async hook looks at the head: go on when it is done. Or a hook has failed and the client has its answer."""
        hooked = self.hooked
        if self.over or hooked is None:
            return
        # Nothing is written yet: should the upstream break off or time run out meanwhile, the client still gets an answer.
        self.responding = False
        if not complete:
            attempt.hold()
        hooked.respond(lambda later: self._go_on(attempt, status, block, length, data, complete, came, later))

    def _changed(
        self, status: StatusLine, block: ResponseBlock, came: ResponseHead, answer: ResponseHead
    ) -> tuple[int, bytes, bytes]:
        """Return status, status line and header lines of a head that hooks changed."""
        code = answer.status
        more = requests.appended(came.headers, answer.headers)
        lines = (
            block.forward + requests.render(more)
            if more is not None
            else requests.render(answer.headers) + block.framing
        )
        if not block.has_date and not any(name == "date" for name, _ in more or answer.headers):
            lines += self.proxy.date_line
        return code, status.line if code == status.code else replies.status_line(code), lines

    def _go_on(
        self,
        attempt: Attempt,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: bytes,
        complete: bool,
        came: ResponseHead,
        answer: ResponseHead,
    ) -> None:
        if self.over or attempt.released:
            return
        self.responding = True
        if answer is came:
            line, lines = status.line, self._lines(status.code, block)
        else:
            _, line, lines = self._changed(status, block, came, answer)
            lines += self._added_lines(answer.status)
        if status.code == 101:
            self._switch(attempt, block, lines, data)
            return
        self._pass_on(attempt, answer.status, line, lines, length, data, complete)
        attempt.let_go()

    def data(self, data: bytes) -> None:
        """Pass a piece of the response's body on."""
        self.bytes_out += len(data)
        size = self.plan.size
        if (
            size is not None
            and judge_response(size, -1, self._content_out(self.attempt), begun=True) is not Verdict.PASS
        ):
            self._break_off("ResponseTooLarge")
            return
        stream = self.stream
        assert self.backend is not None
        stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
        stream.write(data)

    def _content_out(self, attempt: Attempt | None) -> int:
        """Return how much of the response's body has come, without the framing of chunks."""
        connection = attempt.connection if attempt is not None else None
        return self.bytes_out if connection is None or not connection.content else connection.content

    def ended(self, attempt: Attempt) -> None:
        """The response is complete."""
        tunnelled = self.tunnelled
        self._over(attempt)
        if tunnelled:
            self.stream.close_tunnel()
        else:
            self.stream.finish()

    def broke_off(self, attempt: Attempt) -> None:
        """The upstream broke off in the middle of its response."""
        if self.tunnelled:
            self._over(attempt)
            self.stream.close_tunnel()
        else:
            self._break_off("UpstreamReset")

    def _break_off(self, reason: str) -> None:
        # The status is gone out: the only honest end is one that the client cannot take for a whole response.
        self.reason = reason
        attempt = self.attempt
        if attempt is not None and not attempt.released:
            attempt.cancel()
        log.info("response of %s broken off: %s", attempt.endpoint.authority if attempt is not None else "-", reason)
        self._over(None)
        self.stream.abort()

    def _switch(self, attempt: Attempt, block: ResponseBlock, lines: bytes, data: bytes) -> None:
        self.extras().tunnel = True
        self.status = 101
        self.bytes_out += len(data)
        stream = self.stream
        assert self.backend is not None
        stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
        ahead = stream.switch(
            b"HTTP/1.1 101 Switching Protocols\r\n%bconnection: upgrade\r\nupgrade: %b\r\n\r\n%b"
            % (lines, block.upgrade, data)
        )
        attempt.let_go()
        if ahead and attempt.connection is not None:
            attempt.connection.write(ahead)

    # ---- the gateway's own answers

    def refuse(self, reason: str, detail: str = "", *, retry_after_s: float = 0.0) -> None:
        """Answer with the gateway's own problem. reason: of `replies.TITLES`."""
        if self.over:
            return
        self.reason = reason
        self.proxy.measurements.refused(reason)
        rid = self.request_id.decode("latin-1")
        reply = replies.problem(reason, rid, detail, retry_after_s=retry_after_s)
        if self.entry is not None and self.plan.cors is not None:
            # A page of another origin may read what the gateway says, too.
            reply = self._shared(self.plan.cors, reply)
        self._send_reply(reply)

    def _shared(self, cors: CorsFilter, reply: Reply) -> Reply:
        head = (self.hooked or Hooked(self)).head
        answer = cors.on_response(head, ResponseHead(reply.status, reply.headers))
        return Reply(answer.status, answer.headers, reply.body)

    def reply(self, reply: Reply) -> None:
        """Answer with what a plugin, a filter or the rule said; response hooks run over it."""
        hooked = self.hooked
        if hooked is None:
            self._send_reply(reply)
            return
        answer = hooked.respond_at_once(ResponseHead(reply.status, reply.headers))
        if answer is not None:
            self._send_reply(Reply(answer.status, answer.headers, reply.body))
        elif not self.over:
            hooked.respond(lambda later: self._send_reply(Reply(later.status, later.headers, reply.body)))

    def _send_reply(self, reply: Reply) -> None:
        if self.over:
            return
        self.status = reply.status
        body = b"" if reply.status in (204, 304) else bytes(reply.body)
        lines = requests.render(reply.headers)
        if reply.status not in (204, 304):
            lines += b"content-length: %d\r\n" % len(body)
        if self.head_only:
            body = b""
        self.bytes_out = len(body)
        stream = self.stream
        if self.reason in _CLOSING:
            stream.keep = False
        lines += self.proxy.own_lines
        if self.extra is not None:
            lines += self._added_lines(reply.status)
        self._over(None)
        stream.respond(replies.status_line(reply.status), lines, len(body), body, True)

    # ---- going on, and the end

    def choose_backend(self) -> None:
        """Go on to the backend whose turn it is."""
        raise NotImplementedError

    def call_off(self) -> None:
        """Cancel whatever runs upstream."""
        self.responding = False
        self.drop_hedge()
        attempt = self.attempt
        if attempt is not None and not attempt.released:
            attempt.cancel()

    def drop_hedge(self) -> None:
        """Call the attempt off that runs beside the one that counts, if there is one. Log and trace keep it."""
        extra = self.extra
        if extra is None or extra.hedge is None:
            return
        hedge, extra.hedge = extra.hedge, None
        extra.failed.append(hedge)
        if not hedge.released:
            hedge.cancel()

    def release_limiter(self, seconds: float, now: float, *, ok: bool) -> None:
        """Give the place in the bulkhead back. seconds: to the response's head, of an answer (ok) or a failure."""
        self.limited = False
        limiter = self.pool.limiter if self.pool is not None else None
        if limiter is not None:
            limiter.release(now, seconds, ok=ok)

    def _over(self, attempt: Attempt | None) -> None:
        """Settle everything; the exchange is over. attempt: the one that answered, whose endpoint is given back."""
        if self.over:
            return
        self.over = True
        self.stream.requestor = None
        if attempt is not None:
            attempt.release()
        now = monotonic()
        extra = self.extra
        if extra is not None:
            self._settle(extra)
        if self.limited:
            self._give_place_back(now)
        self.proxy.ended(self, now)

    def _leave_queue(self) -> None:
        """Give the place in the bulkhead's queue up, if there is one."""
        extra = self.extra
        if extra is not None and extra.queued and self.pool is not None and self.pool.limiter is not None:
            extra.queued = False
            self.pool.limiter.leave(self.admitted)

    def admitted(self) -> None:
        """A place in the bulkhead got free."""
        raise NotImplementedError

    def _give_place_back(self, now: float) -> None:
        """What the bulkhead's limit is found from is the time to the response's head, without queue and body."""
        attempt = self.attempt
        seconds = attempt.ended_at - attempt.started_at if attempt is not None and attempt.status else 0.0
        self.release_limiter(seconds, now, ok=0 < self.status < 500 and seconds > 0.0)

    def _settle(self, extra: Extras) -> None:
        if extra.delay is not None:
            extra.delay.cancel()
        pool = self.pool
        if extra.waiting is not None:
            extra.waiting.cancel()
            if pool is not None:
                pool.stop_waiting(self.endpoints_came)
        self._leave_queue()
        if extra.service_probe:
            # No verdict came of it (the client left, say); its place must not stay taken.
            extra.service_probe = False
            if pool is not None and pool.service_breaker is not None:
                pool.service_breaker.abandon(probe=True)

    def endpoints_came(self) -> None:
        """There is a first endpoint, or the wait for one is over."""
        raise NotImplementedError

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
        )

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
