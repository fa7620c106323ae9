"""The way back of an exchange: a response from upstream, passed on as it comes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nexus_core.hooks import Reply, ResponseHead
from nexus_wire.http1 import ResponseBlock, StatusLine
from nexus_wire.pieces import Piece

from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.conversations import Conversation
from nexus_gateway.edge.ending import Ending
from nexus_gateway.edge.outlet import Outlet, Source
from nexus_gateway.edge.plugins.slots import BODIES_OUT
from nexus_gateway.filters.sizes import Verdict, judge_response

_BODILESS = frozenset({204, 304})
"""After these nothing follows, whatever their heads say."""


class Answering(Ending):
    """The client's side of an exchange."""

    __slots__ = ()

    # ---- its head

    def answered(
        self,
        attempt: Attempt,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: Piece,
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
            phases = hooked.phases
            if phases is not None and phases.bits & BODIES_OUT:
                self._answered(attempt, status, block, length, data, complete)
                return
            came = ResponseHead(code, block.headers)
            answer = hooked.respond_at_once(came)
            if answer is None:
                go_on = partial(self._go_on, attempt, status, block, length, data, complete, came)
                self._wait_for_hooks(attempt, complete, go_on)
                return
            if answer is not came:
                if hooked.replacement is not None:
                    self._replace(attempt, hooked.replacement, answer, complete)
                    return
                added = hooked.added_to_response
                if added is not None and (block.has_date or b"date:" not in added.lower()):
                    lines += added
                else:
                    code, line, lines = self._changed(status, block, came, answer)
        self.status = code
        self.bytes_out = len(data)
        self.over = True
        connection = attempt.connection
        # Before the connection is given back, and serves the next one.
        trailers = connection.trailers if length == -2 and connection is not None else b""
        attempt.release()
        if self.limited is not None:
            self.release_limiter(now - attempt.started_at, now, ok=code < 500)
        self.proxy.ended(self, now)
        if trailers:
            self.stream.respond_whole(line, lines, data, trailers)
        else:
            self.stream.respond(line, lines, length, data, True)

    def _answered(
        self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int, data: Piece, complete: bool
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

    def _pass_on(
        self, attempt: Attempt, code: int, status_line: bytes, lines: bytes, length: int, data: Piece, complete: bool
    ) -> None:
        self.status = code
        self.bytes_out = len(data)
        stream = self.stream
        if complete:
            connection = attempt.connection
            trailers = connection.trailers if length == -2 and connection is not None else b""
            self._over(attempt)
            if trailers:
                stream.respond_whole(status_line, lines, data, trailers)
            else:
                stream.respond(status_line, lines, length, data, True)
            return
        assert self.backend is not None
        stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
        stream.respond(status_line, lines, length, data, False)
        if stream.blocked:
            attempt.pause()

    def _respond_hooked(
        self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int, data: Piece, complete: bool
    ) -> None:
        """Run response filters and plugins; the body waits meanwhile."""
        hooked = self.hooked
        phases = self.phases
        if hooked is not None and phases is not None and phases.bits & BODIES_OUT and status.code != 101:
            phases.outlet = Outlet(self, hooked)
            phases.outlet.respond(Source(attempt, status, block, length), data, complete)
            return
        came = ResponseHead(status.code, block.headers)
        answer = hooked.respond_at_once(came) if hooked is not None else came
        if answer is None:
            go_on = partial(self._go_on, attempt, status, block, length, data, complete, came)
            self._wait_for_hooks(attempt, complete, go_on)
        else:
            self._go_on(attempt, status, block, length, data, complete, came, answer)

    def _wait_for_hooks(self, attempt: Attempt, complete: bool, go_on: Callable[[ResponseHead], None]) -> None:
        """An async hook looks at the head: go on when it is done. Or a hook has failed and the client has its answer."""
        hooked = self.hooked
        if self.over or hooked is None:
            return
        # Nothing is written yet: should the upstream break off or time run out meanwhile, the client still gets an answer.
        self.responding = False
        if not complete:
            attempt.hold()
        hooked.respond(go_on)

    def _changed(
        self, status: StatusLine, block: ResponseBlock, came: ResponseHead, answer: ResponseHead, *, framed: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Return status, status line and header lines of a head that hooks changed. framed: whether these say how long its body is."""
        code = answer.status
        bare = code != status.code and status.code in _BODILESS and not self.head_only
        if bare:
            # With another status the client would wait for what the head says of a body, and take the next response for it.
            block = block.unframed()
        more = requests.appended(came.headers, answer.headers)
        lines = (
            block.forward + requests.render(more)
            if more is not None
            else requests.render(answer.headers) + block.framing
        )
        if bare and framed:
            lines += b"content-length: 0\r\n"
        if not block.has_date and not any(name.lower() == "date" for name, _ in more or answer.headers):
            lines += self.proxy.date_line
        return code, status.line if code == status.code else replies.status_line(code), lines

    def _go_on(
        self,
        attempt: Attempt,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: Piece,
        complete: bool,
        came: ResponseHead,
        answer: ResponseHead,
    ) -> None:
        if self.over or attempt.released:
            return
        self.responding = True
        hooked = self.hooked
        if hooked is not None and hooked.replacement is not None:
            self._replace(attempt, hooked.replacement, answer, complete)
            return
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

    def _replace(self, attempt: Attempt, reply: Reply, answer: ResponseHead, complete: bool) -> None:
        """Answer with what a plugin put in the response's place. answer: the reply's head, as hooks left it."""
        if complete:
            attempt.release()
        else:
            attempt.cancel()  # the rest of the response is nobody's
        self.send_reply(Reply(answer.status, answer.headers, reply.body))

    def let_out(self, outlet: Outlet, source: Source, came: ResponseHead, answer: ResponseHead, body: bytes) -> None:
        """Write a response that went through plugins which change bodies. body: what is here of it."""
        if self.over:
            return
        status, length = source.status, source.length
        reframed = outlet.altered or outlet.streamed or length == -1
        block = source.block.unframed() if reframed else source.block
        if answer is came:
            line, lines = status.line, self._lines(status.code, block)
        else:
            _, line, lines = self._changed(status, block, came, answer, framed=not reframed)
            lines += self._added_lines(answer.status)
        if reframed:
            length = -2
            if not outlet.streamed and outlet.ended and not outlet.trailers:
                length = len(body)
                lines += b"content-length: %d\r\n" % length
        self.status = answer.status
        self.bytes_out = len(body)
        stream = self.stream
        if not outlet.ended:
            assert self.backend is not None
            stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
            stream.respond(line, lines, length, body, False)
            if stream.blocked:
                source.attempt.pause()
            else:
                source.attempt.resume()
            return
        self._over(None)
        if length == -2 and (outlet.streamed or outlet.trailers):
            stream.respond_whole(line, lines, body, outlet.trailers)
        else:
            stream.respond(line, lines, length, body, True)

    def _switch(self, attempt: Attempt, block: ResponseBlock, lines: bytes, data: Piece) -> None:
        self.extras().tunnel = True
        self.status = 101
        self.bytes_out += len(data)
        stream = self.stream
        assert self.backend is not None
        stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
        conversation = None
        if self.is_overheard and self.hooked is not None and self.hooked.phases is not None:
            conversation = self.extras().conversation = Conversation(self, attempt, self.hooked.phases.met)
        begun = b"" if conversation is not None else bytes(data)
        ahead = stream.switch(
            b"HTTP/1.1 101 Switching Protocols\r\n%bconnection: upgrade\r\nupgrade: %b\r\n\r\n%b"
            % (lines, block.upgrade, begun)
        )
        if conversation is not None:
            conversation.from_server(bytes(data))
        attempt.let_go()
        if ahead:
            self.on_tunnel(ahead)

    # ---- its body

    def data(self, data: bytes) -> None:
        """Pass a piece of the response's body on."""
        if self.hooked is not None and (outlet := self.outlet) is not None:
            self._data_through(outlet, data)
            return
        self.bytes_out += len(data)
        conversation = self.conversation
        if conversation is not None:
            self.stay_in_tunnel()
            conversation.from_server(data)
            return
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

    def _data_through(self, outlet: Outlet, data: bytes) -> None:
        """Pass a piece on through plugins."""
        size = self.plan.size
        assert self.backend is not None
        self.stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
        out = outlet.take(data)
        if self.over:
            return
        if size is not None and judge_response(size, -1, outlet.received, begun=outlet.begun) is not Verdict.PASS:
            self._break_off("ResponseTooLarge")
        elif out:
            self.bytes_out += len(out)
            self.stream.write(out)

    def _content_out(self, attempt: Attempt | None) -> int:
        """Return how much of the response's body has come, without the framing of chunks."""
        connection = attempt.connection if attempt is not None else None
        return self.bytes_out if connection is None or not connection.content else connection.content

    def ended(self, attempt: Attempt) -> None:
        """The response is complete."""
        if self.hooked is not None and (outlet := self.outlet) is not None:
            rest = outlet.end(attempt)
            if outlet.begun and not self.over:
                self.bytes_out += len(rest)
                if rest:
                    self.stream.write(rest)
                self._over(attempt)
                self.stream.finish(outlet.trailers)
            return
        if self.tunnelled:
            self._leave_tunnel(attempt)
            return
        connection = attempt.connection
        # Before the connection is given back, and serves the next one.
        trailers = connection.trailers if connection is not None else b""
        self._over(attempt)
        self.stream.finish(trailers)

    def broke_off(self, attempt: Attempt) -> None:
        """The upstream broke off in the middle of its response."""
        if self.tunnelled:
            self._leave_tunnel(attempt)
        else:
            self._break_off("UpstreamReset")

    def _leave_tunnel(self, attempt: Attempt) -> None:
        """The service's side of a tunnel has ended: end the client's, once what was said has reached it."""
        conversation = self.conversation
        if conversation is not None:
            conversation.server_left(lambda: self._close_tunnel(attempt))
        else:
            self._close_tunnel(attempt)

    def _close_tunnel(self, attempt: Attempt) -> None:
        if not self.over:
            self._over(attempt)
            self.stream.close_tunnel()

    def stay_in_tunnel(self) -> None:
        """Somebody spoke: the silence that is allowed begins anew, unless the end is near."""
        conversation = self.conversation
        if self.backend is not None and (conversation is None or not conversation.closing):
            self.stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks

    def on_tunnel(self, data: bytes) -> None:
        """Pass bytes of an upgraded connection on."""
        attempt = self.attempt
        if attempt is None or attempt.connection is None:
            return
        self.stay_in_tunnel()
        conversation = self.conversation
        if conversation is not None:
            conversation.from_client(data)
        else:
            attempt.connection.write(data)
