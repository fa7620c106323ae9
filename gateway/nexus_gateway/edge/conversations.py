"""A WebSocket whose messages plugins see: its frames are taken apart, each message passes through the hooks, and goes on whole.

Only WebSockets on rules with such a plugin own a `Conversation`; all others are tunnels of bytes. No extension is agreed on for these
(the offer is taken out of the handshake), so messages are plain; pings, pongs and closes pass in their order between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nexus_core.hooks import Close, Message, Plugin, RequestHead, Socket
from nexus_wire.clock import ticks_of
from nexus_wire.websocket import BINARY, CLOSE, TEXT, Broken, Frame, MessageReader, frame

from nexus_gateway.edge.plugins.slots import MESSAGES, HookFailed, Later, Slot

if TYPE_CHECKING:
    from nexus_gateway.edge.answering import Answering
    from nexus_gateway.edge.attempts import Attempt

GOODBYE_S = 5.0
"""What both sides get to close after a plugin has said so."""
_FAILED = Close(1011, "A plugin that this conversation needs failed.")
_CODES = frozenset({1000, 1001, 1003, *range(1007, 1014), *range(3000, 5000)})
_MAX_REASON = 123

Chain = Sequence[tuple[Slot, Socket]]


def check_message(result: object) -> Message | Close | None:
    """Return what a hook on messages returned, as plain values that say the same whenever they are asked.

    Raises TypeError or ValueError for what cannot be sent.
    """
    if isinstance(result, Close):
        return _check_close(result.code, result.reason)
    if result is None:
        return None
    if not isinstance(result, Message):
        raise TypeError(f"it returned {type(result).__name__}, not Message, Close or None")
    data = result.data
    if type(data) is str:
        data.encode()  # halves of surrogate pairs have no bytes
    elif type(data) is not bytes:
        if not isinstance(data, bytes):
            raise TypeError(f"its message's data is {type(data).__name__}, not str or bytes")
        data = b"".join((data,))
    return result if type(result) is Message and result.data is data else Message(data)


def _check_close(code: object, reason: object) -> Close:
    """Return a goodbye of plain values. code: also of an enumeration."""
    plain = int.__add__(code, 0) if isinstance(code, int) else 0
    if plain not in _CODES:
        raise ValueError(f"it closes with {code!r}; codes are 1000, 1001, 1003, 1007 to 1013, and 3000 to 4999")
    if type(reason) is not str or len(reason.encode()) > _MAX_REASON:
        raise ValueError(f"its reason to close is no text of at most {_MAX_REASON} bytes")
    return Close(plain, reason)


class Conversation:
    """Both directions of one WebSocket."""

    __slots__ = ("_attempt", "_client", "_exchange", "_server", "closing")

    def __init__(self, exchange: Answering, attempt: Attempt, met: Sequence[tuple[Slot, RequestHead]]) -> None:
        """met: plugins of the exchange in their order, each with the handshake as it returned it."""
        self._exchange = exchange
        self._attempt = attempt
        self.closing = False
        number = exchange.context[16:32].decode("latin-1")
        # Also those that have been disabled since the handshake: their failure policy has a say in each message.
        chain = [(slot, Socket(number, head)) for slot, head in met if slot.does & MESSAGES]
        limit = min(slot.instance.budgets.body_bytes for slot, _ in chain)
        stream = exchange.stream
        self._client = _Side(
            self, "on_client_message", chain, limit, masked=True, hold=stream.pause, let_go=self._hear_client
        )
        self._server = _Side(
            self, "on_server_message", chain[::-1], limit, masked=False, hold=attempt.pause, let_go=self._hear_server
        )

    def _hear_client(self) -> None:
        """Read on from the client, unless the service reads slowly: it says so when it reads on."""
        connection = self._attempt.connection
        if self.closing or connection is None or not connection.blocked:
            self._exchange.stream.resume()

    def _hear_server(self) -> None:
        """Read on from the service, unless the client reads slowly."""
        if self.closing or not self._exchange.stream.blocked:
            self._attempt.resume()

    def from_client(self, data: bytes) -> None:
        """Take bytes of the client."""
        self._client.feed(data)

    def from_server(self, data: bytes) -> None:
        """Take bytes of the service."""
        self._server.feed(data)

    def client_left(self, then: Callable[[], None]) -> None:
        """The client's side has ended: call `then` when what it said before has gone on."""
        self._client.end(then)

    def server_left(self, then: Callable[[], None]) -> None:
        """The service's side has ended: call `then` when what it said before has gone on."""
        self._server.end(then)

    # ---- for its sides

    @property
    def over(self) -> bool:
        """Whether nobody is there any more."""
        return self._exchange.over

    def spawn(self, later: _Side, index: int, message: Message, waiting: Later[Message | Close | None]) -> None:
        """Await a hook in the background."""
        self._exchange.proxy.spawn(later.go_on(index, message, waiting))

    def send(self, side: _Side, found: Frame) -> None:
        """Pass a frame of a side on to the other one."""
        exchange = self._exchange
        if exchange.over or self.closing:
            return
        if side is self._server:
            exchange.stream.write(frame(found.opcode, found.payload))
        elif self._attempt.connection is not None:
            self._attempt.connection.write(frame(found.opcode, found.payload, os.urandom(4)))

    def close(self, close: Close) -> None:
        """Say goodbye to both sides; what they still say means nothing. They get `GOODBYE_S` to close their connections."""
        exchange = self._exchange
        if exchange.over or self.closing:
            return
        payload = close.code.to_bytes(2, "big") + close.reason.encode()
        self.send(self._server, Frame(CLOSE, payload))
        self.send(self._client, Frame(CLOSE, payload))
        self.closing = True
        clock = exchange.proxy.clock
        exchange.stream.deadline = clock.tick + ticks_of(GOODBYE_S)
        for side in (self._client, self._server):
            side.stop()


class _Side:
    """One direction: its frames in order, one message in the hooks at a time. hold, let_go: of who sends them."""

    __slots__ = ("_busy", "_chain", "_conversation", "_ended", "_hold", "_hook", "_let_go", "_reader")

    def __init__(
        self,
        conversation: Conversation,
        hook: str,
        chain: Chain,
        limit: int,
        *,
        masked: bool,
        hold: Callable[[], None],
        let_go: Callable[[], None],
    ) -> None:
        self._conversation = conversation
        self._hook = hook
        own = getattr(Plugin, hook)
        self._chain = [(slot, socket) for slot, socket in chain if getattr(type(slot.plugin), hook, own) is not own]
        self._reader = MessageReader(masked=masked, limit=limit)
        self._hold = hold
        self._let_go = let_go
        self._busy = False
        self._ended: Callable[[], None] | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        if self._conversation.closing:
            return
        self._reader.feed(data)
        if self._busy:
            self._hold()  # whoever let it go meanwhile did not know
        else:
            self._run()

    def end(self, then: Callable[[], None]) -> None:
        """No more comes: call `then` when what came before has gone on."""
        if self._busy:
            self._ended = then
        else:
            then()

    def stop(self) -> None:
        """Take nothing more."""
        self._reader.closed = True
        if self._busy:
            self._let_go()

    def _run(self) -> None:
        conversation = self._conversation
        try:
            for found in self._reader.frames():
                if found.opcode >= CLOSE:
                    conversation.send(self, found)
                elif not self._pass(0, Message(found.payload.decode() if found.opcode == TEXT else found.payload)):
                    return
        except Broken as broken:
            conversation.close(Close(broken.code, str(broken)))
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended()

    def _pass(self, index: int, message: Message) -> bool:
        """Pass a message through the hooks from one on. Return whether that is done; else a coroutine goes on."""
        chain = self._chain
        for position in range(index, len(chain)):
            slot, socket = chain[position]
            if not slot.open:
                result: Message | Close | None = self._without(slot, message)
            else:
                try:
                    asked = slot.ask(self._hook, check_message, socket, message)
                except HookFailed:
                    asked = self._without(slot, message)
                if isinstance(asked, Later):
                    self._busy = True
                    self._hold()
                    self._conversation.spawn(self, position, message, asked)
                    return False
                result = asked
            if not isinstance(result, Message):
                self._settle(result)
                return True
            message = result
        self._settle(message)
        return True

    async def go_on(self, index: int, message: Message, waiting: Later[Message | Close | None]) -> None:
        """Await one hook's word on a message, then take up what came meanwhile."""
        slot = self._chain[index][0]
        try:
            result = await waiting.result()
        except HookFailed:
            result = self._without(slot, message)
        if self._conversation.over:
            return
        done = True
        if isinstance(result, Message):
            done = self._pass(index + 1, result)
        else:
            self._settle(result)
        if done:
            self._busy = False
            if not self._conversation.closing:
                self._let_go()
            self._run()  # its end, if nothing else: who left meanwhile has no clock any more that would end it

    def _without(self, slot: Slot, message: Message) -> Message | Close:
        return _FAILED if slot.is_closed else message

    def _settle(self, result: Message | Close | None) -> None:
        """Do what the hooks made of a message."""
        if isinstance(result, Close):
            self._conversation.close(result)
        elif result is not None:
            data = result.data
            found = Frame(TEXT, data.encode()) if isinstance(data, str) else Frame(BINARY, data)
            self._conversation.send(self, found)
