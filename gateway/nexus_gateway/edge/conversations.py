"""A WebSocket whose messages plugins see: its frames are taken apart, each message passes through the hooks, and goes on whole.

Only WebSockets on rules with such a plugin own a `Conversation`; all others are tunnels of bytes. No extension is agreed on for these
(the offer is taken out of the handshake), so messages are plain; pings, pongs and closes pass in their order between them. The direction
that no plugin has a hook for passes as it comes, messages of any size; it is known where its frames end, so that a plugin's Close does not
come in the middle of one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nexus_core.hooks import Close, Message, Plugin, RequestHead, Socket
from nexus_wire.clock import ticks_of
from nexus_wire.websocket import BINARY, CLOSE, TEXT, Broken, Frame, MessageReader, frame
from nexus_wire.websocket.frames import MASK_BYTES, length_of

from nexus_gateway.edge.plugins.slots import MESSAGES, HookFailed, Later, Slot

if TYPE_CHECKING:
    from nexus_gateway.edge.answering import Answering
    from nexus_gateway.edge.attempts import Attempt

GOODBYE_S = 5.0
"""What both sides get to close after a plugin has said so."""
_FAILED = Close(1011, "A plugin that this conversation needs failed.")
_CODES = frozenset({1000, 1001, 1003, *range(1007, 1014), *range(3000, 5000)})
_MAX_REASON = 123
_MAX_HEAD = 14
"""Bytes of a frame's head, with its mask."""

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


def _of(chain: Chain, hook: str) -> Chain:
    """Return those of a chain that have a hook of their own."""
    own = getattr(Plugin, hook)
    return [(slot, socket) for slot, socket in chain if getattr(type(slot.plugin), hook, own) is not own]


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
        stream = exchange.stream
        heard, told = _of(chain, "on_client_message"), _of(chain[::-1], "on_server_message")
        self._client: _Side | _Passing = (
            _Side(self, "on_client_message", heard, masked=True, hold=stream.pause, let_go=self._hear_client)
            if heard
            else _Passing(self)
        )
        self._server: _Side | _Passing = (
            _Side(self, "on_server_message", told, masked=False, hold=attempt.pause, let_go=self._hear_server)
            if told
            else _Passing(self)
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
        """Pass a frame of a side on to the other one; nothing follows a Close."""
        if not self.closing:
            self.say(side, found)

    def say(self, side: _Side | _Passing, found: Frame) -> None:
        """Write a frame as if a side had sent it."""
        key = b"" if side is self._server else os.urandom(4)
        self.write(side, frame(found.opcode, found.payload, key))

    def write(self, side: _Side | _Passing, data: bytes) -> None:
        """Pass bytes of a side on to the other one."""
        if self._exchange.over:
            return
        if side is self._server:
            self._exchange.stream.write(data)
        elif self._attempt.connection is not None:
            self._attempt.connection.write(data)

    def close(self, close: Close) -> None:
        """Say goodbye to both sides; what they still say means nothing. They get `GOODBYE_S` to close their connections."""
        exchange = self._exchange
        if exchange.over or self.closing:
            return
        goodbye = Frame(CLOSE, close.code.to_bytes(2, "big") + close.reason.encode())
        self.closing = True
        clock = exchange.proxy.clock
        exchange.stream.deadline = clock.tick + ticks_of(GOODBYE_S)
        for side in (self._server, self._client):
            side.stop(goodbye)


class _Passing:
    """One direction that nobody looks into: its bytes as they come, but for a frame's head, which comes whole."""

    __slots__ = ("_closed", "_conversation", "_goodbye", "_head", "_is_last", "_left")

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._head = b""
        self._left = 0  # of the frame that passes
        self._is_last = False  # it is a Close
        self._closed = False
        self._goodbye: Frame | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        if self._closed:
            return
        passed, broken = self._take(data)
        if passed:
            self._conversation.write(self, passed)
        if broken is not None:
            self._conversation.close(Close(broken.code, str(broken)))
        elif self._goodbye is not None and not self._left:
            self._say(self._goodbye)

    def _take(self, data: bytes) -> tuple[bytes, Broken | None]:
        """Return what passes now of the bytes that are here, and why none passes behind it."""
        buffer = self._head + data if self._head else data
        self._head = b""
        size = len(buffer)
        at = min(self._left, size)
        self._left -= at
        while at < size and self._goodbye is None and not self._is_last:
            head = buffer[at : at + _MAX_HEAD]
            try:
                lengths = length_of(head)
            except Broken as broken:
                return buffer[:at], broken
            count = lengths[0] + (MASK_BYTES if head[1] & 0x80 else 0) if lengths is not None else _MAX_HEAD
            if lengths is None or len(head) < count:
                self._head = head
                break
            self._is_last = head[0] & 0x0F == CLOSE
            step = min(lengths[1], size - at - count)
            self._left = lengths[1] - step
            at += count + step
        self._closed = self._is_last and not self._left
        return buffer[:at], None

    def end(self, then: Callable[[], None]) -> None:
        """No more comes."""
        then()

    def stop(self, goodbye: Frame) -> None:
        """Say goodbye in this side's name as soon as the frame that passes is over, and pass nothing more."""
        if self._left:
            self._goodbye = goodbye
        else:
            self._say(goodbye)

    def _say(self, goodbye: Frame) -> None:
        if not self._is_last:  # else its own has passed
            self._conversation.say(self, goodbye)
        self._closed = True
        self._goodbye = None


class _Side:
    """One direction: its frames in order, one message in the hooks at a time. hold, let_go: of who sends them."""

    __slots__ = ("_busy", "_chain", "_conversation", "_ended", "_hold", "_hook", "_let_go", "_reader")

    def __init__(
        self,
        conversation: Conversation,
        hook: str,
        chain: Chain,
        *,
        masked: bool,
        hold: Callable[[], None],
        let_go: Callable[[], None],
    ) -> None:
        self._conversation = conversation
        self._hook = hook
        self._chain = chain
        self._reader = MessageReader(masked=masked, limit=min(slot.instance.budgets.body_bytes for slot, _ in chain))
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

    def stop(self, goodbye: Frame) -> None:
        """Take nothing more, and say goodbye in this side's name."""
        if not self._reader.closed:  # else its own has gone on
            self._conversation.say(self, goodbye)
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
