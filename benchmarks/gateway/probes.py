"""What `micro.py` times: each decision of the data path, alone, with inputs like those of the big benchmarks.

A probe is a statement, the names in it, and how many times one execution does the thing. Making the inputs is not timed.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import messages
import routes

NOW = 1000.0
ENDPOINTS = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """Times `statement` in the scope of `names`; one execution does it `times` times."""

    what: str
    statement: str
    names: Mapping[str, Any]
    times: int = 1


def parsing() -> Iterator[Probe]:
    """Request heads: known to the caches, unknown, and the second parser."""
    from nexus_wire.http1 import ChunkScanner, RequestParser, ResponseParser, opinions

    def parser() -> RequestParser:
        return RequestParser(aside=(b"traceparent", b"x-request-id", b"x-forwarded-for"), second_opinion=False)

    head = messages.repeated()
    line, _, block = head.removesuffix(b"\r\n\r\n").partition(b"\r\n")
    known = parser()
    known.line(line)
    known.block(block)
    names = {"lines": known.lines, "blocks": known.blocks, "line": line, "block": block}
    yield Probe("request head, known", "lines[line]; blocks[block]", names)
    heads = messages.varied(2000)
    parts = [each.removesuffix(b"\r\n\r\n").partition(b"\r\n") for each in heads]
    fresh = {"parser": parser(), "parts": [(line, block) for line, _, block in parts]}
    clear = "parser.lines.clear(); parser.blocks.clear()"
    yield Probe("request line, unknown", f"{clear}\nfor line, _ in parts: parser.line(line)", fresh, len(parts))
    yield Probe(
        "header block, unknown, 12 headers", f"{clear}\nfor _, block in parts: parser.block(block)", fresh, len(parts)
    )
    yield Probe(
        "second opinion (llhttp), 12 headers",
        "for head in heads: ask(head)",
        {"ask": opinions.ask, "heads": heads},
        len(heads),
    )
    reply = b"Server: nginx\r\nDate: Sat, 21 Nov 2026 10:00:%02d GMT\r\nContent-Type: application/json\r\nContent-Length: 107"
    replies = ResponseParser()
    dated = [reply % second for second in range(60)]
    yield Probe(
        "response block, 60 in turn",
        "for block in dated: known.get(block) or read(block)",
        {"known": replies.blocks, "read": replies.block, "dated": dated},
        len(dated),
    )
    chunk = b"1000\r\n" + bytes(4096) + b"\r\n"
    yield Probe("chunk of 4 KiB, checked", "scanner.take(chunk)", {"scanner": ChunkScanner(), "chunk": chunk})


class _Nowhere:
    """Stands in for a transport."""

    def write(self, data: bytes) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None


def http2() -> Iterator[Probe]:
    """All of HTTP/2 that a request costs, frames in to frames out, without sockets, TLS and what is between request and response."""
    import asyncio

    import hpack
    from nexus_wire.clock import Clock
    from nexus_wire.h2server import Http2
    from nexus_wire.http1 import RequestParser
    from nexus_wire.http2 import frames
    from nexus_wire.server import ServerOptions

    at_once, body = 32, bytes(107)
    lines = b"server: nginx\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\ncontent-length: 107\r\n"

    def answer(stream: Any) -> None:
        stream.respond(b"HTTP/1.1 200 OK\r\n", lines, len(body), body, True)

    def requests(of: Callable[[int], list[tuple[str, str]]], count: int) -> tuple[bytes, list[bytes]]:
        encoder = hpack.Encoder()
        first = frames.headers(1, encoder.encode(of(0)), 16384, end=True)
        turns = [
            b"".join(
                frames.headers(3 + 2 * at, encoder.encode(of(at_once * turn + at)), 16384, end=True)
                for at in range(at_once)
            )
            for turn in range(count)
        ]
        return first, turns

    def same(number: int) -> list[tuple[str, str]]:
        return [(":method", "GET"), (":scheme", "https"), (":path", "/api/orders/12345"), (":authority", "shop.example"),
                ("user-agent", "h2load nghttp2/1.52.0"), ("accept", "*/*")]  # fmt: skip

    def other(number: int) -> list[Any]:
        head = same(number)
        return [*head[:2], hpack.NeverIndexedHeaderTuple(":path", f"/api/orders/{number}"), *head[3:]]

    def new(number: int) -> list[tuple[str, str]]:
        return [
            *same(number),
            ("x-session", f"{number * 7919:032x}"),
            ("traceparent", f"00-{number:032x}-{number:016x}-01"),
        ]

    for what, of, count in (
        ("request and response, known", same, 1), ("the same, path unknown", other, 100), ("the same, path and two headers", new, 100),
    ):  # fmt: skip
        loop = asyncio.new_event_loop()
        clock = Clock(loop)
        clock.stop()
        loop.close()
        parser = RequestParser(aside=(b"traceparent", b"x-request-id", b"x-forwarded-for"))
        options = ServerOptions(parser, clock, answer, lambda *_: b"", lambda _: True, lambda _: None)
        options.http2 = Http2(parser)
        first, turns = requests(of, count)

        def begin(options: Any = options, first: bytes = first) -> Any:
            connection = options.connection("h2")
            connection.connection_made(_Nowhere())
            connection.data_received(frames.PREFACE + frames.settings({}) + first)
            return connection

        # The client's table goes on from turn to turn, so a connection begins where its turns do.
        statement = (
            "connection = begin()\n"
            "for turn in turns:\n"
            "    parser.lines.clear(); connection._last = 1; connection.window = 1 << 30; connection.data_received(turn)"
        )
        if count == 1:
            statement = "connection._last = 1; connection.window = 1 << 30; connection.data_received(turns[0])"
        names = {"begin": begin, "turns": turns, "parser": parser, "connection": begin()}
        yield Probe(what, statement, names, at_once * count)


class _Taker:
    """Waits for a response."""

    def on_response(self, *told: Any) -> None:
        pass


def calls() -> Iterator[Probe]:
    """A gRPC call to an upstream and its answer, 32 at once: servers that have their fields in the table, and those that write
    them out each time."""
    import asyncio

    import hpack
    from nexus_wire.clock import Clock
    from nexus_wire.h2client import Carrier, Heads
    from nexus_wire.http2 import frames

    at_once = 32
    head = [
        (":status", "200"),
        ("server", "x/1.22"),
        ("date", "Sat, 21 Nov 2026 10:00:00 GMT"),
        ("content-type", "application/grpc"),
    ]
    request = (
        b"POST /bench.Items/Get HTTP/1.1\r\nhost: calls.example\r\ncontent-type: application/grpc\r\ncontent-length: 13\r\n"
        b"x-forwarded-for: 10.0.0.1\r\nx-request-id: 0123456789abcdef0123456789abcdef\r\n"
        b"traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-00\r\n\r\n" + bytes(13)
    )

    def answers(encode: Callable[[list[tuple[str, str]]], bytes]) -> bytes:
        return b"".join(
            frames.headers(stream, encode(head), 16384, end=False)
            + frames.data(stream, bytes(80), end=False)
            + frames.headers(stream, encode([("grpc-status", "0")]), 16384, end=True)
            for stream in range(1, 2 * at_once, 2)
        )

    async def connection() -> Any:
        clock = Clock(asyncio.get_running_loop())
        clock.stop()
        made = Carrier(Heads(), clock, lambda _: None)
        made.connection_made(_Nowhere())
        made.data_received(frames.settings({}))
        made._flush()
        return made

    tabled = hpack.Encoder()
    first = answers(tabled.encode)
    for what, begins, then in (
        ("call and answer, fields in the table", first, answers(tabled.encode)),
        ("the same, fields written out", b"", answers(lambda fields: hpack.Encoder().encode(fields))),
    ):
        carrier = asyncio.run(connection())
        places = [carrier.exchange() for _ in range(at_once)]
        # Something waits to be written already, so that no turn of a loop is asked for.
        begin = (
            "carrier._out = [b'']; carrier.next_stream = 1; carrier.window = 1 << 30\n"
            "for place in places: place.begin(taker, request)\n"
        )
        names = {"carrier": carrier, "places": places, "taker": _Taker(), "request": request, "came": begins or then}
        exec(begin + "carrier.data_received(came)", names)
        names["came"] = then
        yield Probe(what, begin + "carrier.data_received(came)", names, at_once)


def routing() -> Iterator[Probe]:
    """Look-ups among 5,000 routes."""
    from nexus_core.match.router import Router

    router = Router(_snapshot(), lambda route, rule: rule.id)
    none: dict[str, str] = {}
    repeated = {"find": router.find, "host": routes.HOST, "path": routes.PATH, "headers": none}
    yield Probe("route, the same again", "find('GET', host, path, headers)", repeated)
    yield Probe("route, no such host", "find('GET', 'nobody.example', path, headers)", repeated)
    deep = {**repeated, "path": "/no/such/path/at/all/here"}
    yield Probe("route, no such path, 6 segments", "find('GET', host, path, headers)", deep)
    asked = [_lookup(each) for each in messages.varied(4000)]
    statement = "for method, host, path, headers in asked: find(method, host, path, headers)"
    yield Probe("route, unique paths over all hosts", statement, {"find": router.find, "asked": asked}, len(asked))


def _lookup(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    line, *fields = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    return method, headers["host"], target.partition("?")[0], headers


def _snapshot() -> Any:
    from nexus_core.snapshot import HeaderMatch, Listener, Match, Route, Rule, Snapshot, WeightedBackend

    def rule(number: int, index: int, each: routes.Route) -> Rule:
        header = (HeaderMatch(*each.header),) if each.header else ()
        match = Match(path=each.path, path_kind=each.kind, method=each.method, headers=header)
        return Rule(id=f"r/{number:03}/{index}", matches=(match,), backends=(WeightedBackend("bench/backend"),))

    def route(number: int) -> Route:
        rules = tuple(rule(number, index, each) for index, each in enumerate(routes.ROUTES))
        return Route(
            id=f"r/{number:03}", source="r", listeners=("l",), hostnames=(routes.host_name(number),), rules=rules
        )

    return Snapshot(listeners=(Listener("l", "g", 80),), routes=tuple(route(number) for number in range(routes.HOSTS)))


def _endpoints(count: int = ENDPOINTS) -> tuple[Any, Any]:
    from nexus_core.discovery import Endpoint
    from nexus_core.snapshot import CircuitBreaker
    from nexus_gateway.resilience.endpoints import EndpointRegistry

    registry = EndpointRegistry()
    listed = [Endpoint("127.0.0.1", 9000 + number) for number in range(count)]
    return registry, registry.update("bench/backend", listed, CircuitBreaker(), NOW)


def balancing() -> Iterator[Probe]:
    """One pick of each algorithm among four endpoints, and what happens on a change."""
    from nexus_core.snapshot import Balancing
    from nexus_gateway.balance.availability import available
    from nexus_gateway.balance.table import BALANCERS

    _, states = _endpoints()
    keys = [f"user-{number}".encode() for number in range(256)]
    for name, make in sorted(BALANCERS.items()):
        balancer = make(random.Random(7))
        live, _ = available(states, Balancing(), "", NOW)
        balancer.prepare(live)
        names = {"pick": balancer.pick, "live": live, "keys": keys}
        yield Probe(f"pick, {name}", f"for key in keys: pick(live, key, {NOW})", names, len(keys))
    _, many = _endpoints(100)
    changed = {"available": available, "states": many, "policy": Balancing()}
    yield Probe("available, 100 endpoints (on change)", f"available(states, policy, '', {NOW})", changed)


def resilience() -> Iterator[Probe]:
    """Breaker, rate limits."""
    from nexus_core.snapshot import HashKey, RateLimit
    from nexus_gateway.resilience.cells import Cells
    from nexus_gateway.resilience.rates import Limits

    _, states = _endpoints()
    breaker = states[0].breaker
    statement = f"if breaker.acquire({NOW}) and breaker.watching: breaker.success({NOW})"
    yield Probe("breaker, closed: acquire and success", statement, {"breaker": breaker})
    limits = Limits(Cells(bytearray(1 << 20)), lambda parts: lambda request: b"")
    clock = itertools.count(1)
    plain = limits.get(RateLimit("bench", 10_000_000))
    keyed = limits.get(RateLimit("keyed", 10_000_000, key=(HashKey("source"),)))
    keys = [f"10.0.0.{number}".encode() for number in range(200)]
    yield Probe("rate limit, one for all", "take(b'', next(clock))", {"take": plain.take, "clock": clock})
    statement = "now = next(clock)\nfor key in keys: take(key, now)"
    yield Probe(
        "rate limit, by key, 200 keys", statement, {"take": keyed.take, "clock": clock, "keys": keys}, len(keys)
    )


def telemetry() -> Iterator[Probe]:
    """Counts, trace context, the decision at the end, a log line."""
    from nexus_gateway.telemetry.contexts import Contexts
    from nexus_gateway.telemetry.decisions import Decisions
    from nexus_gateway.telemetry.finished import NOTHING, Finished, Tried
    from nexus_gateway.telemetry.lines import log_line
    from nexus_gateway.telemetry.otlp import encode_span
    from nexus_gateway.telemetry.red import Red
    from nexus_gateway.telemetry.spans import spans_of

    yield Probe("stats: count and time", "add(200, 0.0007)", {"add": Red("r", "u").add})
    contexts = Contexts(0.01, True, os.urandom)
    yield Probe("trace, started", "start(None)", {"start": contexts.start})
    parent = {b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    yield Probe("trace, continued from the client's", "start(parent)", {"start": contexts.start, "parent": parent})
    decisions = Decisions(log=True, log_ratio=0.01, trace=True, slow_s=1.0, random=random.Random(7).random)
    lines = contexts.start(None)
    yield Probe("whether to log or record", "end(lines, 200, 0.0007, 1, '')", {"end": decisions.end, "lines": lines})
    tried = Tried("127.0.0.1:9000", lines, NOW, NOW + 0.0006, 200, "ok")
    fields: dict[str, Any] = {"route": "r/250", "rule": "r/250/9", "upstream": "bench/backend", "tried": (tried,)}
    done = Finished(NOTHING, NOTHING, "127.0.0.1", "id", lines, NOW, NOW + 0.0007, 200, **fields)
    yield Probe("access log line (1 in 100)", "log_line(done, 1.7e9)", {"log_line": log_line, "done": done})
    spans = {"spans_of": spans_of, "done": done, "entropy": os.urandom}
    yield Probe("spans of a request (1 in 100)", "spans_of(done, 0, entropy)", spans)
    made = spans_of(done, 0, os.urandom)
    yield Probe(
        "OTLP of them (1 in 100)", "for span in made: encode_span(span)", {"encode_span": encode_span, "made": made}
    )


GROUPS: Mapping[str, Callable[[], Iterator[Probe]]] = {
    "parsing": parsing,
    "http2": http2,
    "calls": calls,
    "routing": routing,
    "balancing": balancing,
    "resilience": resilience,
    "telemetry": telemetry,
}
