"""What is kept of a finished request for its log line and its spans. Made once, at the end, and only when one of them is wanted.

It refers to the parsed head rather than copying from it, so making one costs as much as its slots; texts, attributes and
numbers are made from it in the writer's and the exporter's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

MAX_TEXT = 2048
"""Characters of path, of query and of a header that any log line or span shows."""
LONG = 1024
"""Bytes of a head up to which a record refers to it as it was parsed."""


class Line(Protocol):
    """The request line as the parser keeps it. path: normal form. query: without `?`."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...


class Block(Protocol):
    """The header block as the parser keeps it. host: lower-case. forward: end-to-end lines. joined: all headers by lower-case name."""

    @property
    def host(self) -> str: ...
    @property
    def aside(self) -> Mapping[bytes, bytes] | None: ...
    @property
    def forward(self) -> bytes: ...
    @property
    def joined(self) -> Mapping[str, str]: ...


class _Nothing:
    """Line and block of a request whose head could not be read."""

    method = path = query = host = ""
    aside = None
    forward = b""
    joined: Mapping[str, str] = {}


NOTHING = _Nothing()


class _Short:
    """What logs and traces show of a long head, as line and as block."""

    __slots__ = ("aside", "forward", "host", "joined", "method", "path", "query")

    def __init__(self, line: Line, block: Block) -> None:
        self.method = line.method
        self.path = line.path[:MAX_TEXT]
        self.query = line.query[:MAX_TEXT]
        self.host = block.host
        aside = block.aside
        self.aside = {name: value for name, value in aside.items() if len(value) <= MAX_TEXT} if aside else None
        self.forward = b""
        self.joined = {"user-agent": block.joined.get("user-agent", "")[:MAX_TEXT]}


class Tried(msgspec.Struct, frozen=True, gc=False):
    """One attempt. endpoint: its authority. lines: its context lines. started_at, ended_at: monotonic seconds; it ends with the
    response's head. status: 0 without one. outcome: of `resilience.exchanges.Outcome`. breaker: state in which it was let through.
    hedge: whether it ran beside another attempt. grpc: the error that a gRPC call was answered with; 0 for none."""

    endpoint: str
    lines: bytes
    started_at: float
    ended_at: float
    status: int
    outcome: str
    breaker: str = "closed"
    hedge: bool = False
    grpc: int = 0


class Hook(msgspec.Struct, frozen=True, gc=False):
    """One call of a plugin's hook. started_at: monotonic. version: of the release. candidate: whether that is being tried beside
    another one. error: what the call failed with, its type; empty for a call that did not."""

    plugin: str
    hook: str
    started_at: float
    duration_s: float
    version: str = ""
    candidate: bool = False
    error: str = ""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """One request. Times are monotonic: head read, and last byte handed to the client's socket.

    lines: of `Contexts.start`, empty when it was refused before. status: sent to the client; 499 for a client that left before.
    reason: why the gateway answered itself or broke the response off; empty otherwise. tried: in order, the last one answered.
    grpc: the status of a gRPC call, digits; empty when none is known. `status` is then 200, or of an error that the gateway itself
    told a gRPC client, what any other one would have been sent.
    """

    line: Line
    block: Block
    client_ip: str | bytes
    request_id: str | bytes
    lines: bytes
    started_at: float
    ended_at: float
    status: int
    reason: str = ""
    route: str = ""
    rule: str = ""
    upstream: str = ""
    tried: tuple[Tried, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0
    scheme: str = "http"
    hooks: tuple[Hook, ...] = ()
    grpc: str | bytes = ""


def shortened(done: Finished) -> Finished:
    """Return the same without what nobody will see of a head that is longer than most.

    Records wait for their writers, thousands of them when one is slow, and clients choose how long heads are.
    """
    line, block, aside = done.line, done.block, done.block.aside
    size = len(line.path) + len(line.query) + len(block.forward)
    if size <= LONG and (aside is None or size + sum(map(len, aside.values())) <= LONG):
        return done
    short = _Short(line, block)
    return msgspec.structs.replace(done, line=short, block=short)


def text(value: str | bytes) -> str:
    """Return bytes of the wire as text."""
    return value if isinstance(value, str) else value.decode("latin-1")
