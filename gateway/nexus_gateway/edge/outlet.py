"""A response on its way through plugins that change bodies: one plugin after the other, in reverse order, each with head and body.

Nothing is written before the last of them has had its say of the head. A plugin that wants all of the body has it collected, up to its
`budgets.body_bytes`; one that changes it piece by piece gets the pieces that were collected first. What fails is taken back with all that
the same plugin did to the head: a response says what its body is, and goes on as it came, or not at all.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead
from nexus_wire.http1 import Dechunker, ResponseBlock, StatusLine
from nexus_wire.pieces import Piece

from nexus_gateway.edge.intake import Chain, feed, finish
from nexus_gateway.edge.plugins.checking import BODILESS, check_response, check_response_body, check_stream, check_wish
from nexus_gateway.edge.plugins.slots import RESPONSE_BODY, RESPONSE_STREAM, HookFailed, Slot

if TYPE_CHECKING:
    from nexus_gateway.edge.attempts import Attempt
    from nexus_gateway.edge.ending import Ending
    from nexus_gateway.edge.hooked import Hooked

_AHEAD_BYTES = 65536
"""Of a body, that are held while plugins look at its head; its sender is paused beyond."""


class Source:
    """A response from upstream. attempt: which got it. length: of its body, as the wire tells it: -1 chunked, -2 raw."""

    __slots__ = ("attempt", "block", "length", "status")

    def __init__(self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int) -> None:
        self.attempt = attempt
        self.status = status
        self.block = block
        self.length = length


class Outlet:
    """begun: whether the head is written. ended: whether all of the body has come. altered: whether its length is another than it was.
    streamed: whether it passes through streams. trailers: of the response, lines with CRLF.
    """

    __slots__ = (
        "_chain", "_dechunker", "_exchange", "_held", "_hooked", "_most", "_received", "_size", "_waiting", "altered", "begun",
        "ended", "source", "streamed", "trailers",
    )  # fmt: skip

    def __init__(self, exchange: Ending, hooked: Hooked) -> None:
        self._exchange = exchange
        self._hooked = hooked
        self._chain: Chain = []
        self._dechunker: Dechunker | None = None
        self._held: list[bytes] = []
        self._size = 0
        self._received = 0
        self._most = _AHEAD_BYTES
        self._waiting: asyncio.Future[None] | None = None
        self.source: Source | None = None
        self.begun = False
        self.ended = False
        self.altered = False
        self.streamed = False
        self.trailers = b""

    # ---- from the exchange

    def reply(self, reply: Reply) -> None:
        """Begin with a reply that a plugin, a filter or the rule made."""
        self._held = [bytes(reply.body)]
        self._size = len(reply.body)
        self.ended = True
        self._exchange.proxy.spawn(self._run(ResponseHead(reply.status, reply.headers)), self._exchange.context)

    def respond(self, source: Source, data: Piece, complete: bool) -> None:
        """Begin with a response from upstream. complete: data is its whole body."""
        self.source = source
        length = source.length
        if length == -1:
            self._dechunker = Dechunker()
        if complete:
            self.trailers = _trailers(source)
        self.take(bytes(data), complete)
        if complete:
            source.attempt.release()
        self._exchange.proxy.spawn(
            self._run(ResponseHead(source.status.code, source.block.headers)), self._exchange.context
        )

    def take(self, data: bytes, complete: bool = False) -> bytes:
        """Take a piece of the body. Return what of it goes out now; it is held, as long as the head is not written."""
        if self._dechunker is not None:
            data, rest = self._dechunker.take(data)
            if rest is not None:
                self.trailers = self._dechunker.trailers
                self._dechunker = None
        self._received += len(data)
        try:
            data = feed(self._chain, "on_response_stream", data)
            if complete:
                data += finish(self._chain, "on_response_stream")
        except HookFailed:
            self._exchange.give_up("PluginUnavailable")
            return b""
        if complete:
            self.ended = True
        if self.begun:
            return data
        if data:
            self._held.append(data)
            self._size += len(data)
        if self._size > self._most and not complete and self.source is not None:
            self.source.attempt.pause()
        self._wake()
        return b""

    @property
    def received(self) -> int:
        """How much of the body has come, without its framing."""
        return self._received

    def end(self, attempt: Attempt) -> bytes:
        """The response is complete. Return what goes out still."""
        assert self.source is not None
        if self.source.length != -1:
            self.trailers = _trailers(self.source)
        rest = self.take(b"", complete=True)
        if not self.begun and not self._exchange.over:
            attempt.release()
        return rest

    def close(self) -> None:
        """The exchange is over."""
        self._held = []
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        if (
            waiting is not None
            and not waiting.done()
            and (self.ended or self._size > self._most or self._exchange.over)
        ):
            waiting.set_result(None)

    # ---- plugins

    async def _run(self, came: ResponseHead) -> None:
        """Pass the response through filters and plugins, and write it."""
        hooked = self._hooked
        exchange = self._exchange
        answer = hooked.filtered(came)
        seen = hooked.seen
        while seen:
            slot, request = seen.pop()
            try:
                passed = await self._pass(slot, request, answer)
            except HookFailed:
                if exchange.over:
                    return
                if slot.is_closed:
                    hooked.response_unavailable(slot.instance.id)
                    return
                continue
            if passed is None or exchange.over:
                return
            answer = passed
        self._begin(came, answer)

    async def _pass(self, slot: Slot, request: RequestHead, came: ResponseHead) -> ResponseHead | None:
        """Return the head that one plugin makes of the response, and do to the body what it does; None for an exchange that is over.

        Raises `HookFailed`, with the body as it was.
        """
        hooked = self._hooked
        exchange = self._exchange
        answer: ResponseHead = came
        if not slot.open:
            raise HookFailed("on_response")
        if slot.answers:
            # Not by `Slot.response`: one that fails open would leave the head as it came, and its body be changed all the same.
            try:
                result = await slot.asked("on_response", partial(check_response, before=came), request, came)
            finally:
                if hooked.sampled:
                    hooked.note(slot, "on_response")
            if exchange.over:
                return None
            if isinstance(result, Reply):
                return self._replace(result)
            answer = result
        if exchange.head_only or came.status in BODILESS:
            return answer
        if slot.does & RESPONSE_BODY and slot.wants(
            "wants_response_body", lambda wish: check_wish(wish, "wants_response_body"), request, came
        ):
            fits = await self._gather(slot.instance.budgets.body_bytes)
            if exchange.over:
                return None
            if not fits:
                slot.too_large("on_response_body")
                if not slot.is_closed:
                    return came
                exchange.give_up("ResponseTooLarge")
                return None
            # What a call of gRPC came to is in its trailers: with the whole body they are here, too.
            status = _grpc(self.trailers) if self.trailers else ()
            whole = came.with_headers((*came.headers, *status)) if status else came
            changed = await slot.asked("on_response_body", check_response_body, request, whole, b"".join(self._held))
            if hooked.sampled:
                hooked.note(slot, "on_response_body")
            if exchange.over:
                return None
            if isinstance(changed, Reply):
                return self._replace(changed)
            held, size, altered = self._held, self._size, self.altered
            self._put(changed)
            try:
                self._flow(slot, request, came)
            except HookFailed:
                self._held, self._size, self.altered = held, size, altered
                raise
            return answer
        self._flow(slot, request, came)
        return answer

    def _flow(self, slot: Slot, request: RequestHead, came: ResponseHead) -> None:
        """Have a body that there is pass through a plugin's stream, if it has one. Raises `HookFailed`, with the body as it was."""
        if slot.does & RESPONSE_STREAM and not self._is_empty():
            self._stream(slot, request, came)

    def _is_empty(self) -> bool:
        """Whether the response is known to have no body: it came with none, and no plugin made one."""
        return not self._size and (self.ended or (self.source is not None and self.source.length == 0))

    def _put(self, body: bytes) -> None:
        self._held = [body] if body else []
        self._size = len(body)
        self.altered = True

    def _replace(self, reply: Reply) -> ResponseHead:
        """Put a reply in the place of the whole response; what upstream still sends is not wanted."""
        source, self.source = self.source, None
        if source is not None and not source.attempt.released:
            source.attempt.cancel()
        self._chain = []
        self._put(bytes(reply.body))
        self.ended = True
        self.streamed = False
        self.trailers = b""
        return self._hooked.replace(reply)

    def _stream(self, slot: Slot, request: RequestHead, came: ResponseHead) -> None:
        """Have the body pass through a plugin's stream, what is here of it first."""
        stream = slot.plain("on_response_stream", lambda made: check_stream(made, "on_response_stream"), request, came)
        if self._hooked.sampled:
            self._hooked.note(slot, "on_response_stream")
        if stream is None:
            return
        chain: Chain = [(slot, stream)]  # type: ignore[list-item]  # what has `feed` and `finish`
        changed = feed(chain, "on_response_stream", b"".join(self._held))
        if self.ended:
            changed += finish(chain, "on_response_stream")
        else:
            self._chain += chain
        self._put(changed)
        self.streamed = True

    async def _gather(self, most: int) -> bool:
        """Wait until all of the body is here. Return False, with what came so far, if it is larger than `most`."""
        source = self.source
        self._most = most
        exchange = self._exchange
        while not self.ended and self._size <= most and not exchange.over:
            self._waiting = exchange.proxy.loop.create_future()
            if source is not None and not exchange.stream.blocked:
                source.attempt.resume()
            self._wait()
            await self._waiting
        self._waiting = None
        self._most = _AHEAD_BYTES
        if self._size > _AHEAD_BYTES and not self.ended and source is not None:
            source.attempt.pause()
        return self.ended and self._size <= most

    def _wait(self) -> None:
        """Allow the upstream as much silence in a body that is collected as in one that is passed on."""
        exchange = self._exchange
        if exchange.backend is not None:
            exchange.stream.deadline = exchange.proxy.clock.tick + exchange.backend.idle_ticks

    # ---- going out

    def _begin(self, came: ResponseHead, answer: ResponseHead) -> None:
        exchange = self._exchange
        source = self.source
        body = b"".join(self._held)
        self._held = []
        self.begun = True
        if source is None:
            exchange.send_reply(Reply(answer.status, answer.headers, body))
        else:
            exchange.let_out(self, source, came, answer, body)


def _trailers(source: Source) -> bytes:
    """Return a raw response's trailers, before its connection is given back and serves the next one."""
    connection = source.attempt.connection
    return connection.trailers if source.length == -2 and connection is not None else b""


def _grpc(lines: bytes) -> Headers:
    """Return a gRPC call's status from its trailers; no others: a trailer is no header unless it is known to be one.

    Source: RFC 9110 section 6.5.1.
    """
    parts = (line.partition(":") for line in lines.decode("latin-1").split("\r\n"))
    pairs = ((name.strip().lower(), value.strip()) for name, _, value in parts)
    return tuple(pair for pair in pairs if pair[0].startswith("grpc-"))
