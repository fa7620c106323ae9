"""A probe with grpc.health.v1.Health/Check over HTTP/2. Imported when the first upstream asks for it: h2 takes 1.3 MB.

h2 is the protocol, without I/O; the connection and its bounds are those of every probe (decision 0012).
"""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from nexus_core.snapshot import HealthCheck

from nexus_gateway.edge.health import grpc_health
from nexus_gateway.edge.health.probes import Outcome, Stream, Target, Unfit, run

MAX_ANSWER_BYTES = 65_536
"""Of frames of any kind, before the answer is complete."""
_READ_BYTES = 16_384


async def grpc(target: Target, policy: HealthCheck) -> Outcome:
    """Good when the service, or the server as a whole, says SERVING."""
    return await run(_check, target, policy)


async def _check(stream: Stream, target: Target, policy: HealthCheck) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    number = connection.get_next_available_stream_id()
    connection.send_headers(
        number,
        [
            (":method", "POST"),
            (":scheme", "https" if target.tls is not None else "http"),
            (":path", grpc_health.PATH),
            (":authority", policy.host or target.authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "nexus-health"),
            ("grpc-timeout", f"{max(int(policy.timeout_s * 1000), 1)}m"),
        ],
    )
    connection.send_data(number, grpc_health.encode_request(policy.service), end_stream=True)
    stream.writer.write(connection.data_to_send())
    answer = _Answer(number)
    seen = 0
    while not answer.complete:
        data = await stream.reader.read(_READ_BYTES)
        seen += len(data)
        if not data:
            raise Unfit("the connection closed before the answer was complete")
        if seen == len(data) and data.startswith(b"HTTP/1"):
            # What a server says that takes the preface for a broken request: the likeliest mistake has its own words.
            raise Unfit("the server speaks HTTP/1, not gRPC")
        if seen > MAX_ANSWER_BYTES:
            raise Unfit(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        try:
            for event in connection.receive_data(data):
                answer.take(event)
        except (h2.exceptions.H2Error, ValueError) as error:
            # ValueError: header bytes that are not UTF-8.
            raise Unfit(f"the answer is not HTTP/2: {error}") from error
        stream.writer.write(connection.data_to_send())
    answer.judge()


class _Answer:
    """What came of the one stream. complete: whether it ended."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._headers: dict[str, str] = {}
        self._data = bytearray()
        self.complete = False

    def take(self, event: h2.events.Event) -> None:
        """Take one event of the connection."""
        if isinstance(event, h2.events.ConnectionTerminated):
            raise Unfit(f"the server ended the connection: error {event.error_code}")
        if getattr(event, "stream_id", self._number) != self._number:
            return
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            # Both: an answer without a message has all of it in its first headers.
            self._headers.update((str(name), str(value)) for name, value in event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            self._data += event.data or b""
            if len(self._data) > grpc_health.MAX_MESSAGE_BYTES:
                raise Unfit(f"the message is longer than {grpc_health.MAX_MESSAGE_BYTES} bytes")
        elif isinstance(event, h2.events.StreamReset):
            raise Unfit(f"the server reset the stream: error {event.error_code}")
        elif isinstance(event, h2.events.StreamEnded):
            self.complete = True

    def judge(self) -> None:
        """Return when the answer is SERVING. Raises `Unfit`."""
        headers = self._headers
        if headers.get(":status") != "200":
            raise Unfit(f"HTTP status {headers.get(':status')}")
        if not headers.get("content-type", "").startswith("application/grpc"):
            raise Unfit("the answer is not gRPC")
        if headers.get("grpc-status") != "0":
            said = headers.get("grpc-message", "")[:200]
            raise Unfit(f"gRPC status {headers.get('grpc-status', 'missing')}" + (f": {said}" if said else ""))
        try:
            status = grpc_health.decode_status(bytes(self._data))
        except grpc_health.MessageInvalid as invalid:
            raise Unfit(str(invalid)) from invalid
        if status != grpc_health.SERVING:
            raise Unfit(grpc_health.STATUSES.get(status, str(status)))
