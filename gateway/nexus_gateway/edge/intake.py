"""A request's body on its way through plugins: collected for those that want all of it, then changed by others piece by piece.

The order is that of the plugins, and bodies come before streams: a stream gets what `on_request_body` made of the body. What is
collected is bounded by each plugin's `budgets.body_bytes`; a body that is too large for all that want it goes on as it came, or is
refused. Framing is the gateway's: a collected body goes on with its length, a streamed one without.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from nexus_core.hooks import BodyStream, Reply
from nexus_wire.clock import NEVER
from nexus_wire.http1 import Dechunker

from nexus_gateway.edge.plugins.checking import check_piece, check_request_body, check_stream, check_wish
from nexus_gateway.edge.plugins.slots import REQUEST_BODY, REQUEST_STREAM, HookFailed, Slot

if TYPE_CHECKING:
    from nexus_gateway.edge.ending import Ending
    from nexus_gateway.edge.hooked import Hooked
    from nexus_gateway.edge.phases import Phases

_SILENCE_S = 15.0
"""How long a client may be silent in a body that is collected, where no route says."""
Chain = list[tuple[Slot, BodyStream]]


def feed(chain: Chain, hook: str, data: bytes) -> bytes:
    """Return what a piece becomes on its way through streams; empty while they need more. Raises `HookFailed`."""
    for slot, stream in chain:
        if not data:
            break
        data = slot.run(hook, stream.feed, lambda piece: check_piece(piece, hook), data)
    return data


def finish(chain: Chain, hook: str) -> bytes:
    """Return what streams still hold at a body's end. Raises `HookFailed`."""
    rest = b""
    for slot, stream in chain:
        if rest:
            rest = slot.run(hook, stream.feed, lambda piece: check_piece(piece, hook), rest)
        rest += slot.run(hook, stream.finish, lambda piece: check_piece(piece, hook))
    return rest


class Intake:
    """holding: pieces stay here as they come, for plugins that want all of the body. passing: they go through streams.

    trailers: of a body that plugins had a part in, lines with CRLF; None while the client's stream has them.
    """

    __slots__ = (
        "_bodies", "_chain", "_dechunker", "_exchange", "_gathered", "_hooked", "_phases", "_pieces", "_raw", "holding",
        "passing", "trailers",
    )  # fmt: skip

    def __init__(self, exchange: Ending, hooked: Hooked, phases: Phases) -> None:
        self._exchange = exchange
        self._hooked = hooked
        self._phases = phases
        self._bodies: list[Slot] = []
        self._chain: Chain = []
        self._dechunker: Dechunker | None = None
        self._gathered: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._raw = exchange.block.length == -2
        self.holding = False
        self.passing = False
        self.trailers: bytes | None = None

    # ---- the beginning

    def begin(self) -> bool:
        """Return whether the exchange goes on now; else it does later, or it was answered."""
        exchange = self._exchange
        # Whoever asks for an upgrade has sent an empty body, and what follows is none. It is looked at all the same: that a client
        # would rather speak something else must not spare its request from those who look.
        for slot, _ in self._phases.met:
            if slot.does & REQUEST_BODY:
                try:
                    wanted = slot.wants(
                        "wants_request_body", lambda wish: check_wish(wish, "wants_request_body"), self._hooked.head
                    )
                except HookFailed:
                    if not self._passes(slot, "wants_request_body"):
                        return False
                    continue
                if wanted:
                    self._bodies.append(slot)
        if self._bodies and exchange.block.length > 0 and not self._fits(exchange.block.length):
            return False
        if not self._bodies:
            return self._begin_streams()
        exchange.extras()  # the short way to a connection would count the plugins' time as its endpoint's
        if not exchange.complete:
            self._hold()
        exchange.proxy.spawn(self._run(), exchange.context)
        return False

    def _hold(self) -> None:
        exchange = self._exchange
        extra = exchange.extras()
        self._pieces = [exchange.body, *(extra.pending or ())]
        exchange.body = b""
        if extra.pending is not None:
            extra.pending = None
            extra.pending_bytes = 0
            exchange.stream.resume()
        self.holding = True
        self._gathered = exchange.proxy.loop.create_future()
        extra.until_body = True
        exchange.stream.invite()
        extra.invited = True
        self._wait()
        self._look()

    def _wait(self) -> None:
        """Have the exchange told when its client has been silent for as long as the route gives it."""
        exchange = self._exchange
        plan = exchange.plan
        backend = plan.only or (plan.backends[0] if plan.backends else None)
        silence_s = backend.timeouts.request_s or backend.timeouts.idle_s if backend is not None else _SILENCE_S
        stream, clock = exchange.stream, exchange.proxy.clock
        stream.deadline = clock.at(silence_s)
        clock.soon(stream)

    # ---- collecting

    def take(self, data: bytes, complete: bool) -> None:
        """Hold a piece. complete: it is the last one."""
        if data:
            self._pieces.append(data)
        gathered = self._gathered
        if gathered is None or gathered.done():
            return
        if complete:
            self._no_deadline()
            gathered.set_result(None)
        else:
            self._wait()
            self._look()

    def _look(self) -> None:
        """Look at what has come so far, of a body that has not ended."""
        gathered = self._gathered
        assert gathered is not None
        if not self._fits(self._exchange.content_in):
            return  # answered
        if not self._bodies and not gathered.done():
            # Nobody wants it any more. No more of it is held than is here.
            self._exchange.stream.pause()
            self._no_deadline()
            gathered.set_result(None)

    def _no_deadline(self) -> None:
        self._exchange.stream.deadline = NEVER
        self._exchange.extras().until_body = False

    def _fits(self, size: int) -> bool:
        """Leave plugins out for which a body is too large. Return False when the request was refused over that."""
        for slot in tuple(self._bodies):
            if size > slot.instance.budgets.body_bytes:
                self._bodies.remove(slot)
                if not self._is_passed_over(slot):
                    return False
        return True

    def _is_passed_over(self, slot: Slot) -> bool:
        """Return whether the request goes on without a plugin for which its body is too large; else it was refused."""
        slot.too_large("on_request_body")
        if slot.is_closed:
            self._exchange.refuse("BodyTooLarge")
        return not slot.is_closed

    async def _run(self) -> None:
        """Wait for the body, and pass it through the plugins that want all of it."""
        exchange = self._exchange
        if self._gathered is not None:
            await self._gathered
            if exchange.over:
                return
            self._gathered = None
            self._phases.began_at = monotonic()
        if self._bodies:
            try:
                if not await self._change():
                    return
            except HookFailed:
                return  # the request was answered over it
        else:
            self._give_back()
        if self._begin_streams():
            self._hooked.go_on()

    def _give_back(self) -> None:
        """Go on with what was held as it came."""
        self.holding = False
        exchange = self._exchange
        extra = exchange.extras()
        if exchange.complete:
            exchange.body = b"".join(self._pieces)
            exchange.stream.resume()
        else:
            # Its client is asked for more when somebody takes it.
            extra.pending = self._pieces
            extra.pending_bytes = sum(map(len, self._pieces))
        self._pieces = []

    async def _change(self) -> bool:
        """Pass a body that is here in full through plugins. Return whether the request goes on."""
        exchange = self._exchange
        hooked = self._hooked
        content = self._content()
        came = content
        for slot in self._bodies:
            if len(content) > slot.instance.budgets.body_bytes:
                # The plugins before it made it grow.
                if not self._is_passed_over(slot):
                    return False
                continue
            head = hooked.head
            try:
                result = await slot.asked("on_request_body", partial(check_request_body, before=head), head, content)
            except HookFailed:
                if exchange.over or not self._passes(slot, "on_request_body"):
                    return False
                continue
            if hooked.sampled:
                hooked.note(slot, "on_request_body")
            if exchange.over:
                return False
            if isinstance(result, Reply):
                exchange.reply(result)
                return False
            after, content = result
            if after is not head:
                hooked.change(after)
        if content is not came or exchange.block.length < 0:
            # Trailers have no place behind a body with a length.
            exchange.block = exchange.block.reframed(-2 if self.trailers else len(content))
        exchange.body = content
        return True

    def _content(self) -> bytes:
        """Return all of the body, without its framing; its trailers are kept."""
        exchange = self._exchange
        extra = exchange.extra
        pieces = self._pieces
        if not self.holding:
            pieces = [exchange.body]
            if extra is not None and extra.pending is not None:
                pieces += extra.pending
                extra.pending = None
                extra.pending_bytes = 0
                exchange.stream.resume()
        self.holding = False
        self._pieces = []
        body = b"".join(pieces)
        if exchange.block.length == -1:
            dechunker = Dechunker(underscores=False)
            body, _ = dechunker.take(body)  # checked as it came: it is not refused
            self.trailers = dechunker.trailers
        elif self._raw:
            self.trailers = exchange.stream.trailers
        return body

    # ---- streaming

    def _begin_streams(self) -> bool:
        """Ask plugins for streams, if there is a body. Return whether the exchange goes on; else it was answered."""
        exchange = self._exchange
        hooked = self._hooked
        extra = exchange.extra
        pending = extra.pending if extra is not None else None
        if exchange.complete and not exchange.body and not pending:
            return True
        for slot, _ in self._phases.met:
            if not slot.does & REQUEST_STREAM:
                continue
            try:
                stream = slot.plain(
                    "on_request_stream", lambda made: check_stream(made, "on_request_stream"), hooked.head
                )
            except HookFailed:
                if not self._passes(slot, "on_request_stream"):
                    return False
                continue
            if hooked.sampled:
                hooked.note(slot, "on_request_stream")
            if stream is not None:
                self._chain.append((slot, stream))  # type: ignore[arg-type]  # what has `feed` and `finish`
        if not self._chain:
            return True
        if exchange.block.length == -1:
            self._dechunker = Dechunker(underscores=False)
        body = b"".join((exchange.body, *(pending or ())))
        if extra is not None and pending is not None:
            extra.pending = None
            extra.pending_bytes = 0
            exchange.stream.resume()
        self.passing = True
        self._raw = exchange.block.length == -2 and self.trailers is None
        exchange.block = exchange.block.reframed(-2)
        if self.trailers is None:
            self.trailers = b""
        changed = self.change(body, exchange.complete)
        if changed is None:
            return False
        exchange.body = changed
        return True

    def change(self, data: bytes, complete: bool) -> bytes | None:
        """Return what a piece becomes; None when the request broke off over it."""
        try:
            if self._dechunker is not None:
                data, rest = self._dechunker.take(data)
                if rest is not None:
                    self.trailers = self._dechunker.trailers
            changed = feed(self._chain, "on_request_stream", data)
            if complete:
                changed += finish(self._chain, "on_request_stream")
                if self._raw:
                    self.trailers = self._exchange.stream.trailers
        except HookFailed:
            self._exchange.give_up("PluginUnavailable")
            return None
        return changed

    # ---- the end

    def close(self) -> None:
        """The exchange is over."""
        self._pieces = []
        if self._gathered is not None and not self._gathered.done():
            self._gathered.set_result(None)

    def _passes(self, slot: Slot, hook: str) -> bool:
        """Return whether the request goes on without a plugin that failed; else it is answered."""
        if self._hooked.sampled:
            self._hooked.note(slot, hook)
        if not slot.is_closed:
            return True
        self._hooked.unavailable(slot.instance.id)
        return False
