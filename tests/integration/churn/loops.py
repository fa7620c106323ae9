"""The load: a closed and an open loop in a process of their own, with a client that repeats nothing.

`loops.py SPEC` (JSON, see `Spec`) writes `ready`, follows orders on standard input and writes its report when that ends.

- The closed loop is a few clients that each wait for the answer before the next request; the open loop sends at a constant
  rate whatever comes back, and its latencies count from the moment a request was due, so that a stall shows in full
  (no coordinated omission).
- Methods alternate. A POST is never repeated by anybody, so what is lost shows.
- Every request has an id of its own in its path, and the answer has to name it: an answer meant for somebody else is a loss.
- A few requests are slow (their ids say so), so that whatever happens, happens to requests in flight.
- Connections are kept, the last used taken first. Before reuse one is asked whether the server has closed it (a `poll`, as
  urllib3 does); `Connection: close` is obeyed; some requests take a connection of their own, so that listeners are tried, too.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import os
import select
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import httptools

ANSWER_S = 12.0
MAX_IN_FLIGHT = 2000
SLOW_EVERY = 10


@dataclass(frozen=True)
class Spec:
    """What to do. targets: ports on 127.0.0.1 for new connections, in turn.

    rate: requests/s of the open loop. clients, think_s: of the closed loop, and their pause after each answer.
    fresh_every: each n-th request of a loop, of either method, goes on a connection of its own; 0 for none.
    ca: PEM, for TLS. report: file to write. name: first part of the ids.
    """

    targets: list[int]
    report: str
    name: str
    rate: float = 100.0
    clients: int = 6
    think_s: float = 0.04
    fresh_every: int = 10
    ca: str = ""
    host: str = "churn.example"


@dataclass(slots=True)
class Record:
    """One request. Times are monotonic seconds, the same clock for all processes. kind: empty for a good answer, else what was wrong.

    due_at: when the open loop had to send it; the same as sent_at in the closed one. port: where it went.
    """

    loop: str
    method: str
    id: str
    due_at: float
    sent_at: float = 0.0
    done_at: float = 0.0
    port: int = 0
    kind: str = ""
    detail: str = ""


class Lost(Exception):
    """The request has no good answer. kind: in a word."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time; llhttp reads what comes."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.over = False
        self.uses = 0
        self._waiting: asyncio.Future[tuple[int, bytes, bool]] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        if self._waiting is not None and not self._waiting.done():
            when = "within an answer" if self._heard else "before an answer"
            used = f"request {self.uses} on it"
            self._waiting.set_exception(Lost("reset" if exc else "closed", f"{when}, {used}: {exc or 'end of stream'}"))

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(Lost("invalid", str(error)))
            self.transport.abort()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            keep = self._parser.should_keep_alive()
            self._waiting.set_result((self._parser.get_status_code(), self._body, keep))

    def is_usable(self) -> bool:
        """Whether the server has neither closed it nor said anything unasked."""
        if self.over or self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    async def ask(self, data: bytes) -> tuple[int, bytes, bool]:
        """Return status, body, and whether the connection may be kept. Raises Lost."""
        self._begin()
        self.uses += 1
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._waiting
        except TimeoutError:
            self.transport.abort()
            raise Lost("timeout", f"no answer within {ANSWER_S:g} s") from None
        finally:
            self._waiting = None


@dataclass
class Client:
    """Connections to wherever the gateway is at the moment. certificates: `(when, digest)` of each handshake."""

    spec: Spec
    targets: list[int]
    idle: list[Connection] = field(default_factory=list)
    opened: int = 0
    certificates: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        if self.spec.ca:
            self._context = ssl.create_default_context(cadata=self.spec.ca)

    async def _open(self) -> Connection:
        self.opened += 1
        port = self.targets[self.opened % len(self.targets)]
        name = self.spec.host if self._context is not None else None
        try:
            async with asyncio.timeout(ANSWER_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(port), "127.0.0.1", port, ssl=self._context, server_hostname=name
                )
        except (OSError, TimeoutError) as error:
            raise Lost("connect", f"port {port}: {type(error).__name__} {error}") from error
        secure = connection.transport.get_extra_info("ssl_object")
        if secure is not None:
            seen = hashlib.sha256(secure.getpeercert(binary_form=True)).hexdigest()
            self.certificates.append((time.monotonic(), seen))
        return connection

    async def send(self, record: Record, *, fresh: bool) -> None:
        """Send one request, once, and fill in its record."""
        record.sent_at = time.monotonic()
        try:
            connection = None
            while self.idle and not fresh:
                connection = self.idle.pop()
                if connection.is_usable():
                    break
                connection.transport.close()
                connection = None
            if connection is None:
                connection = await self._open()
            record.port = connection.port
            lines = f"{record.method} /load/{record.id} HTTP/1.1\r\nhost: {self.spec.host}\r\n"
            if record.method == "POST":
                body = json.dumps({"id": record.id, "amount": 12})
                lines += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            else:
                body = ""
            if fresh:
                lines += "connection: close\r\n"
            status, found, keep = await connection.ask(f"{lines}\r\n{body}".encode())
            if keep and not fresh:
                self.idle.append(connection)
            else:
                connection.transport.close()
            if status != 200:
                raise Lost(f"status {status}", found.decode(errors="replace"))
            if found != record.id.encode():
                raise Lost("wrong answer", found.decode(errors="replace"))
        except Lost as lost:
            record.kind, record.detail = lost.kind, str(lost)[:400]
        record.done_at = time.monotonic()


class Load:
    """Both loops until `stop`."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.client = Client(spec, list(spec.targets))
        self.records: list[Record] = []
        self.stopped = asyncio.Event()
        self._in_flight = 0

    def _record(self, loop: str, number: int, due_at: float) -> Record:
        method = "POST" if number % 2 else "GET"
        slow = "-slow" if number // 2 % SLOW_EVERY == SLOW_EVERY // 2 else ""
        record = Record(loop, method, f"{self.spec.name}-{loop}-{number}{slow}", due_at)
        self.records.append(record)
        return record

    def _is_fresh(self, number: int) -> bool:
        # `// 2`: of both methods.
        return self.spec.fresh_every > 0 and number // 2 % self.spec.fresh_every == 0

    async def _closed(self, numbers: Iterator[int]) -> None:
        while not self.stopped.is_set():
            number = next(numbers)
            record = self._record("closed", number, time.monotonic())
            await self.client.send(record, fresh=self._is_fresh(number))
            await asyncio.sleep(self.spec.think_s)

    async def _one(self, record: Record, *, fresh: bool) -> None:
        self._in_flight += 1
        try:
            await self.client.send(record, fresh=fresh)
        finally:
            self._in_flight -= 1

    async def _open(self) -> None:
        begun, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while not self.stopped.is_set():
                due_at = begun + number / self.spec.rate
                if (wait_s := due_at - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                record = self._record("open", number, due_at)
                if self._in_flight < MAX_IN_FLIGHT:
                    tasks.create_task(self._one(record, fresh=self._is_fresh(number)))
                else:
                    record.kind, record.sent_at = "too many in flight", time.monotonic()
                    record.done_at = record.sent_at
                number += 1

    async def run(self) -> None:
        """Load until stopped; what is in flight then still ends."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._open())
            numbers = itertools.count()
            for _ in range(self.spec.clients):
                tasks.create_task(self._closed(numbers))
        for connection in self.client.idle:
            connection.transport.close()


async def main(spec: Spec) -> None:
    load = Load(spec)
    loop = asyncio.get_running_loop()
    heard = b""

    def ordered() -> None:
        """`{"targets": [port, …]}` moves new connections; the end of the input stops."""
        nonlocal heard
        data = os.read(0, 65536)
        if not data:
            loop.remove_reader(0)
            load.stopped.set()
            return
        *lines, heard = (heard + data).split(b"\n")
        for line in lines:
            load.client.targets = json.loads(line)["targets"]

    # Its records pile up, and each full collection walks all of them: the later a request, the slower it would seem.
    gc.disable()
    loop.add_reader(0, ordered)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await load.run()
    report: dict[str, Any] = {
        "records": [asdict(record) for record in load.records],
        "connections": load.client.opened,
        "certificates": load.client.certificates,
    }
    await asyncio.to_thread(Path(spec.report).write_text, json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(Spec(**json.loads(sys.argv[1]))))
