"""How an exchange ends: the gateway's own answers, breaking off, and giving everything back.

Whatever happens, `_over` runs exactly once for each exchange, and `Attempt.release` exactly once for each attempt.
"""

from __future__ import annotations

import logging
from time import monotonic

from nexus_core.hooks import Reply, ResponseHead
from nexus_wire.clock import NEVER

from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.extras import Extras
from nexus_gateway.edge.hooked import Hooked
from nexus_gateway.edge.outlet import Outlet, Source
from nexus_gateway.edge.plugins.slots import BODIES_OUT
from nexus_gateway.edge.runtimes import Backend
from nexus_gateway.edge.standing import Standing
from nexus_gateway.filters import grpc
from nexus_gateway.filters.cors import CorsFilter

log = logging.getLogger("nexus.gateway")

_CLOSING = frozenset({"BadRequest", "BodyTimeout", "MethodRefused", "HeadTooLarge", "BodyTooLarge"})
_UNASKED = _CLOSING | {"PluginUnavailable", "InternalError"}
"""Answers that no plugin is asked about: the request itself was broken, or what failed is a plugin, or the gateway."""


class Ending(Standing):
    """The end of an exchange."""

    __slots__ = ()

    # ---- the gateway's own answers

    def refuse(self, reason: str, detail: str = "", *, retry_after_s: float = 0.0) -> None:
        """Answer with the gateway's own problem, or what plugins that saw the request make of it. reason: of `replies.TITLES`."""
        if self.over:
            return
        self.reason = reason
        self.proxy.measurements.refused(reason)
        rid = self.request_id.decode("latin-1")
        reply = replies.problem(reason, rid, detail, retry_after_s=retry_after_s)
        if self.entry is not None and self.plan.cors is not None:
            # A page of another origin may read what the gateway says, too.
            reply = self._shared(self.plan.cors, reply)
        hooked = self.hooked
        if hooked is not None and reason not in _UNASKED and hooked.takes_refusal():
            self.reply(reply)
        else:
            self.send_reply(reply)

    def _shared(self, cors: CorsFilter, reply: Reply) -> Reply:
        head = (self.hooked or Hooked(self)).head
        answer = cors.on_response(head, ResponseHead(reply.status, reply.headers))
        return Reply(answer.status, answer.headers, reply.body)

    def reply(self, reply: Reply) -> None:
        """Answer with what a plugin, a filter or the rule said; response hooks run over it."""
        hooked = self.hooked
        if hooked is None:
            self.send_reply(reply)
            return
        phases = hooked.phases
        if phases is not None and phases.bits & BODIES_OUT and hooked.seen:
            self._stand_down()
            phases.outlet = Outlet(self, hooked)
            phases.outlet.reply(reply)
            return
        answer = hooked.respond_at_once(ResponseHead(reply.status, reply.headers))
        if answer is not None:
            self._reply_hooked(reply, answer)
        elif not self.over:
            self._stand_down()
            hooked.respond(lambda later: self._reply_hooked(reply, later))

    def _stand_down(self) -> None:
        """Have nothing else go on while plugins take their time over a reply: no attempt, no timer, no place that others wait for.

        Time is bounded by the budgets of the hooks.
        """
        self.call_off()
        extra = self.extra
        if extra is not None:
            self._settle(extra)
            extra.waiting = extra.delay = None
        if self.limited is not None:
            self._give_place_back(monotonic())
        self.stream.deadline = NEVER

    def _reply_hooked(self, reply: Reply, answer: ResponseHead) -> None:
        """Send what hooks made of a reply. answer: its head."""
        hooked = self.hooked
        if hooked is not None and hooked.replacement is not None:
            reply = hooked.replacement
        self.send_reply(Reply(answer.status, answer.headers, reply.body))

    def send_reply(self, reply: Reply) -> None:
        """Answer with this, as it is."""
        if self.over:
            return
        self.status = reply.status
        if reply.status >= 400 and grpc.is_call(self.block.first("content-type")):
            # `status` stays what it would have been: logs and metrics tell failures by it.
            # What a plugin put in the place of the gateway's own answer has its own reasons.
            replaced = self.hooked is not None and self.hooked.replacement is not None
            code = grpc.status_of(reply.status, "" if replaced else self.reason)
            self.extras().grpc = str(code)
            reply = grpc.build_reply(reply, code)
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

    def _added_lines(self, status: int) -> bytes:
        """Return what the gateway adds to a response's head: a new session, and what a signed token asks for."""
        extra = self.extra
        if extra is None:
            return b""
        return extra.response_lines + self.proxy.debugging.lines(self, status) if extra.debug else extra.response_lines

    # ---- breaking off

    def call_off(self) -> None:
        """Cancel whatever runs upstream."""
        self.responding = False
        self.drop_hedge()
        attempt = self.attempt
        if attempt is not None and not attempt.released:
            attempt.cancel()

    def give_up(self, reason: str, detail: str = "") -> None:
        """End the exchange where it is: with an answer, or in the middle of one. reason: of `replies.TITLES`."""
        responding = self.responding
        self.call_off()
        if responding:
            self._break_off(reason)
        else:
            self.refuse(reason, detail)

    def drop_hedge(self) -> None:
        """Call the attempt off that runs beside the one that counts, if there is one. Log and trace keep it."""
        extra = self.extra
        if extra is None or extra.hedge is None:
            return
        hedge, extra.hedge = extra.hedge, None
        extra.failed.append(hedge)
        if not hedge.released:
            hedge.cancel()

    def _break_off(self, reason: str) -> None:
        outlet = self.outlet
        if outlet is not None and not outlet.begun:
            # Plugins have it still: the client can be told.
            self.call_off()
            self.refuse(reason)
            return
        # The status is gone out: the only honest end is one that the client cannot take for a whole response.
        self.reason = reason
        attempt = self.attempt
        if attempt is not None and not attempt.released:
            attempt.cancel()
        log.info("response of %s broken off: %s", attempt.endpoint.authority if attempt is not None else "-", reason)
        self._over(None)
        self.stream.abort()

    # ---- the end, once

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
        if self.limited is not None:
            self._give_place_back(now)
        if self.hooked is not None and (phases := self.hooked.phases) is not None:
            phases.close()
        self.proxy.ended(self, now)

    def _give_copies_up(self, extra: Extras) -> None:
        collected, extra.copied = extra.copied, None
        if collected is not None:
            self.proxy.mirrors.give_up(collected.pools)

    def _settle(self, extra: Extras) -> None:
        self._give_copies_up(extra)
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

    def release_limiter(self, seconds: float, now: float, *, ok: bool) -> None:
        """Give the place in the bulkhead back. seconds: to the response's head, of an answer (ok) or a failure."""
        limiter, self.limited = self.limited, None
        if limiter is not None:
            limiter.release(now, seconds, ok=ok)

    def _give_place_back(self, now: float) -> None:
        """What the bulkhead's limit is found from is the time to the response's head, without queue and body."""
        attempt = self.attempt
        seconds = attempt.ended_at - attempt.started_at if attempt is not None and attempt.status else 0.0
        self.release_limiter(seconds, now, ok=0 < self.outcome_status < 500 and seconds > 0.0)

    def _leave_queue(self) -> None:
        """Give the place in the bulkhead's queue up, if there is one."""
        extra = self.extra
        if extra is not None and extra.queued is not None:
            limiter, extra.queued = extra.queued, None
            limiter.leave(self.admitted)

    # ---- going on

    def choose_backend(self, chosen: Backend | None = None) -> None:
        """Go on to the backend whose turn it is. chosen: by plugins, in its place."""
        raise NotImplementedError

    def let_out(self, outlet: Outlet, source: Source, came: ResponseHead, answer: ResponseHead, body: bytes) -> None:
        """Write a response that went through plugins which change bodies."""
        raise NotImplementedError

    def admitted(self) -> None:
        """A place in the bulkhead got free."""
        raise NotImplementedError

    def endpoints_came(self) -> None:
        """There is a first endpoint, or the wait for one is over."""
        raise NotImplementedError
