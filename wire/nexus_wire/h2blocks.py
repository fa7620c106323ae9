"""Header blocks of one HTTP/2 connection to a server: each is read, and those that come again are not read again.

A server that has put its fields in the table says them in a few bytes, which mean the same until the table changes. One that
writes its fields out each time (nginx does, and enters them as well) says the same whatever the table holds. Both are one dict probe.
"""

from __future__ import annotations

from nexus_wire.http1 import ResponseBlock, StatusLine, trailer_lines
from nexus_wire.http1.fields import is_secret
from nexus_wire.http2 import calls
from nexus_wire.http2.calls import Answers
from nexus_wire.http2.hpack import Decoder, Entries

_MAX_KNOWN = 64
_MAX_KNOWN_BYTES = 512

Said = tuple[StatusLine | None, ResponseBlock | None, bytes, bytes]
"""What a header block says: a head, or trailers. The last: the gRPC status that trailers tell."""
Key = tuple[bool, bytes]
"""Whether it is read as a head, and the block."""


class Blocks:
    """known: what blocks say, as long as the table stays as it is."""

    __slots__ = ("_answers", "_decoder", "_lasting", "known")

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._decoder: Decoder[bytes] = Decoder(calls.STATICS)
        self._lasting: dict[Key, tuple[Said, Entries[bytes]]] = {}
        self.known: dict[Key, Said] = {}

    def read(self, key: Key) -> Said:
        """Return what a block says that is not `known`. Raises `Refused` and `ConnectionBroken`."""
        lasting = self._lasting.get(key)
        if lasting is not None:
            said, entered = lasting
            if entered:
                self._decoder.again(entered)
                if self.known:
                    self.known.clear()
            return said
        head, block = key
        fields = self._decode(block)
        if head:
            status, lines, keep = self._answers.read(fields)
            said = status, lines, b"", b""
        else:
            pairs = calls.pairs_of(fields)
            trailers = trailer_lines(pairs)
            said = None, None, trailers, calls.grpc_status(trailers)
            keep = not any(is_secret(name) for name, _ in pairs)
        if keep and len(block) <= _MAX_KNOWN_BYTES:
            self._keep(key, said)
        return said

    def pass_over(self, block: bytes) -> None:
        """Take note of a block that is nobody's: it may change the table. Raises `ConnectionBroken`."""
        self._decode(block)

    def _decode(self, block: bytes) -> list[bytes]:
        decoder = self._decoder
        fields = decoder.decode(block)
        if not decoder.neutral and self.known:
            self.known.clear()
        return fields

    def _keep(self, key: Key, said: Said) -> None:
        decoder = self._decoder
        if decoder.lasting:
            if len(self._lasting) >= _MAX_KNOWN:
                # A date among its fields makes a new one each second.
                self._lasting.clear()
            self._lasting[key] = said, decoder.entered
        elif decoder.neutral and len(self.known) < _MAX_KNOWN:
            self.known[key] = said
