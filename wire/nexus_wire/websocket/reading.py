"""The frames of one direction, put together to messages."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_wire.websocket.frames import (
    CLOSE,
    CONTINUATION,
    KNOWN,
    MASK_BYTES,
    MAX_CONTROL,
    TEXT,
    Broken,
    Frame,
    length_of,
    mask_of,
)


class MessageReader:
    """Reads one side of a WebSocket without extensions. masked: it is the client's side.

    limit: bytes of one message; the frame that goes beyond is refused by its head, before its payload is held.
    """

    __slots__ = ("_buffer", "_limit", "_masked", "_opcode", "_parts", "_size", "closed")

    def __init__(self, *, masked: bool, limit: int) -> None:
        self._masked = masked
        self._limit = limit
        self._buffer = bytearray()
        self._opcode = 0
        self._parts = (
            bytearray()
        )  # of one piece: a message in fragments of a byte, or of none, takes no more than its bytes
        self._size = 0
        self.closed = False
        """A Close has come: nothing after it means anything."""

    def feed(self, data: bytes) -> None:
        """Take bytes; `frames` gives what they complete."""
        if not self.closed:
            self._buffer += data

    def frames(self) -> Iterator[Frame]:
        """Yield what is complete, in order; taken up again where it stopped. Raises Broken."""
        while not self.closed:
            found = self._next()
            if found is None:
                return
            final, opcode, payload = found
            if opcode >= CLOSE:
                if opcode == CLOSE:
                    self.closed = True
                    self._buffer.clear()
                yield Frame(opcode, payload)
                continue
            whole = self._assemble(final, opcode, payload)
            if whole is not None:
                yield whole

    def _next(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if not buffer:
            return None
        first = buffer[0]
        final, opcode = bool(first & 0x80), first & 0x0F
        if first & 0x70:
            raise Broken(1002, "A frame uses an extension that was not agreed on.")
        if opcode not in KNOWN:
            raise Broken(1002, f"A frame has the unknown opcode {opcode}.")
        if len(buffer) > 1 and bool(buffer[1] & 0x80) is not self._masked:
            raise Broken(1002, "A client's frame is not masked." if self._masked else "A server's frame is masked.")
        lengths = length_of(buffer)
        if lengths is None:
            return None
        head, count = lengths
        if opcode >= CLOSE and (count > MAX_CONTROL or not final):
            raise Broken(1002, "A control frame is too long or in pieces.")
        if opcode < CLOSE and self._size + count > self._limit:
            raise Broken(1009, f"The message is larger than {self._limit} bytes.")
        start = head + (MASK_BYTES if self._masked else 0)
        if len(buffer) < start + count:
            return None
        payload = bytes(buffer[start : start + count])
        if self._masked:
            payload = mask_of(payload, bytes(buffer[head:start]))
        del buffer[: start + count]
        return final, opcode, payload

    def _assemble(self, final: bool, opcode: int, payload: bytes) -> Frame | None:
        if opcode == CONTINUATION:
            if not self._opcode:
                raise Broken(1002, "A message goes on that never began.")
        elif self._opcode:
            raise Broken(1002, "A message begins in the middle of another.")
        else:
            self._opcode = opcode
        if final and not self._parts:
            kind, self._opcode = self._opcode, 0
            return self._whole(kind, payload)
        self._parts += payload
        self._size += len(payload)
        if not final:
            return None
        whole, kind = bytes(self._parts), self._opcode
        self._parts.clear()
        self._size = self._opcode = 0
        return self._whole(kind, whole)

    def _whole(self, kind: int, whole: bytes) -> Frame:
        if kind == TEXT:
            try:
                whole.decode()
            except UnicodeDecodeError as error:
                raise Broken(1007, "A text is not UTF-8.") from error
        return Frame(kind, whole)
