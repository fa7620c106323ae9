"""Answers to gRPC calls, frame by frame: which errors are repeated, and what metrics, access log and traces show of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import ClientError
from h2.exceptions import StreamClosedError
from nexus_core.snapshot import CircuitBreaker, Outlier, Retry
from nexus_gateway.resilience.breakers import _PROBES as PROBES
from nexus_gateway.testing import Harness, simple, until

from tests.integration.h2_servers import Call, Peer, Server

OK = [(":status", "200"), ("content-type", "application/grpc")]
MESSAGE = b"\0\0\0\0\0"
Answer = Callable[[Peer, Call], None]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server of HTTP/2 that answers as a test says."""
    made = Server()
    async with made.listening():
        yield made


def answering(server: Server, *answers: Answer) -> None:
    """Have the server answer its calls so, one after the other; the last answer holds for all that follow."""

    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            answers[min(len(server.calls), len(answers)) - 1](peer, call)

    server.on_call = on_call


def trailers_only(status: int) -> Answer:
    return lambda peer, call: peer.h2.send_headers(call.stream, [*OK, ("grpc-status", str(status))], end_stream=True)


def whole(status: int, body: bytes = b"") -> Answer:
    """In one piece: head, messages, trailers."""

    def answer(peer: Peer, call: Call) -> None:
        peer.h2.send_headers(call.stream, OK)
        if body:
            peer.h2.send_data(call.stream, body)
        peer.h2.send_headers(call.stream, [("grpc-status", str(status))], end_stream=True)

    return answer


def in_pieces(status: int) -> Answer:
    """The head, and later the trailers."""

    def answer(peer: Peer, call: Call) -> None:
        peer.h2.send_headers(call.stream, OK)

        def end() -> None:
            with contextlib.suppress(StreamClosedError):  # the client has left
                peer.h2.send_headers(call.stream, [("grpc-status", str(status))], end_stream=True)
                peer.flush()

        asyncio.get_running_loop().call_later(0.05, end)

    return answer


async def ask(harness: Harness, method: str = "POST", kind: str = "application/grpc") -> tuple[int, bytes, str]:
    """Make a call; return HTTP's status, the body, and the status in the head."""
    assert harness.client is not None
    headers = {"content-type": kind, "te": "trailers"}
    async with harness.client.request(method, harness.url("/s/m"), data=MESSAGE, headers=headers) as response:
        return response.status, await response.read(), response.headers.get("grpc-status", "")


async def scrape(harness: Harness, name: str) -> dict[str, float]:
    """Return the values of a metric by their labels as text."""
    assert harness.client is not None
    async with harness.client.get(harness.admin("/metrics")) as response:
        lines = [line for line in (await response.text()).splitlines() if line.startswith(name)]
    return {line.partition("{")[2].partition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def classes(harness: Harness) -> dict[str, float]:
    found = await scrape(harness, "nexus_gateway_requests_total")
    return {labels.partition('code_class="')[2][:3]: value for labels, value in found.items() if value}


async def outcomes(harness: Harness) -> dict[str, float]:
    found = await scrape(harness, "nexus_gateway_upstream_attempts_total")
    return {labels.partition('outcome="')[2].partition('"')[0]: value for labels, value in found.items() if value}


@pytest.mark.parametrize(
    ("first", "method", "on", "again"),
    [
        (trailers_only(14), "PUT", ("503",), True),
        (whole(14), "PUT", ("503",), True),
        (trailers_only(4), "PUT", ("504",), True),
        (trailers_only(8), "PUT", ("429",), True),
        (trailers_only(13), "PUT", ("500",), True),
        (trailers_only(14), "PUT", ("500", "reset"), False),
        (trailers_only(8), "PUT", ("503",), False),
        (trailers_only(14), "POST", ("503",), False),
        (whole(14, MESSAGE), "PUT", ("503",), False),
        (in_pieces(14), "PUT", ("503",), False),
    ],
    ids=[
        "in the head", "in trailers with the head", "deadline exceeded", "resource exhausted", "internal", "not named",
        "another not named", "not idempotent", "after a message", "after the head was passed on",
    ],
)  # fmt: skip
async def test_an_error_is_repeated_like_the_response_that_means_the_same(
    harness: Harness, server: Server, first: Answer, method: str, on: tuple[str, ...], again: bool
) -> None:
    answering(server, first, whole(0, MESSAGE * 2))
    await harness.start(simple(server.port, protocol="h2", retry=Retry(attempts=1, on=on)))
    status, body, _ = await ask(harness, method)
    assert (status, len(server.calls), body == MESSAGE * 2) == (200, 2 if again else 1, again)
    assert ("2xx" in await classes(harness)) is again, "the last answer is what counts"


async def test_the_last_error_is_passed_on(harness: Harness, server: Server) -> None:
    answering(server, trailers_only(14))
    await harness.start(simple(server.port, protocol="h2", retry=Retry(attempts=2, on=("503",))))
    assert await ask(harness, "PUT") == (200, b"", "14")
    assert len(server.calls) == 3
    assert (await classes(harness), await outcomes(harness)) == ({"5xx": 1.0}, {"503": 3.0})


@pytest.mark.parametrize(("status", "counted"), [(0, "2xx"), (5, "4xx"), (13, "5xx"), (14, "5xx"), (99, "5xx")])
@pytest.mark.parametrize("answer", [trailers_only, whole, in_pieces])
async def test_a_call_is_counted_as_what_its_status_means(
    harness: Harness, server: Server, answer: Callable[[int], Answer], status: int, counted: str
) -> None:
    answering(server, answer(status))
    await harness.start(simple(server.port, protocol="h2"))
    assert (await ask(harness))[0] == 200
    assert await classes(harness) == {counted: 1.0}


@pytest.mark.parametrize("answer", [trailers_only, whole, in_pieces])
async def test_what_is_no_call_is_judged_by_its_head_alone(
    harness: Harness, server: Server, answer: Callable[[int], Answer]
) -> None:
    answering(server, answer(14))
    await harness.start(simple(server.port, protocol="h2", breaker=CircuitBreaker(failures=1, reset_s=60.0)))
    for kind in ("application/json", "application/grpc-web"):
        assert (await ask(harness, kind=kind))[0] == 200
    assert await classes(harness) == {"2xx": 2.0}
    (row,) = (await harness.ask("/breakers"))["breakers"]
    assert row["state"] == "closed"


@pytest.mark.parametrize("answer", [trailers_only, whole, in_pieces])
async def test_log_and_trace_show_the_services_status(
    harness: Harness, server: Server, answer: Callable[[int], Answer], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    answering(server, answer(14))
    await harness.start(simple(server.port, protocol="h2"), access_log=True)
    await ask(harness)
    written: list[bytes] = []
    await until(lambda: written.append(capsysbinary.readouterr().out) or b"\n" in written[-1])  # type: ignore[func-returns-value]
    line = json.loads(b"".join(written))
    assert (line["status"], line["grpc_status"]) == (200, "14")
    (trace,) = (await harness.ask("/traces"))["traces"]
    (root,) = (await harness.ask(f"/traces/{trace['trace_id']}"))["spans"]
    (attempt,) = root["children"]
    for span in (root, attempt):
        assert (span["attributes"]["rpc.grpc.status_code"], span["status"]) == (14, "error"), span["kind"]
        assert span["attributes"]["http.response.status_code"] == 200


@pytest.mark.parametrize("seed", range(2))
async def test_no_place_of_a_probe_is_lost_however_calls_end(
    harness: Harness, server: Server, settled: Callable[..., Awaitable[None]], seed: int
) -> None:
    """Well, badly, in pieces, broken off by either side; and in the end a good call closes the circuits."""
    rng = random.Random(seed)

    def reset(peer: Peer, call: Call) -> None:
        peer.h2.send_headers(call.stream, OK)

        def end() -> None:
            with contextlib.suppress(StreamClosedError):
                peer.h2.reset_stream(call.stream)
                peer.flush()

        asyncio.get_running_loop().call_later(0.01, end)

    def silent(peer: Peer, call: Call) -> None:
        if rng.random() < 0.5:
            peer.h2.send_headers(call.stream, OK)

    makers = (trailers_only, whole, in_pieces, in_pieces)

    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            made = rng.choice((reset, silent, *(maker(rng.choice((0, 0, 4, 5, 13, 14, 14))) for maker in makers)))
            made(peer, call)

    server.on_call = on_call
    circuit = CircuitBreaker(failures=2, reset_s=0.03, probes=2)
    world = simple(server.port, protocol="h2", breaker=circuit, service_breaker=circuit, outlier=Outlier(failures=3))
    gateway = await harness.start(world, max_in_flight=1000)

    async def client() -> None:
        for _ in range(25):
            with contextlib.suppress(TimeoutError, ClientError):
                async with asyncio.timeout(rng.choice((0.03, 0.1))):
                    await ask(harness, rng.choice(("POST", "PUT")))
            await asyncio.sleep(0.01)

    await asyncio.gather(*(client() for _ in range(6)))
    await settled(clients=False)
    (pool,) = gateway.pools.all().values()
    assert pool.service_breaker is not None
    assert len(server.calls) > 40
    breakers = (pool.service_breaker, *(state.breaker for state in pool.endpoints))
    assert [breaker._slot.view[breaker._slot.at + PROBES] for breaker in breakers] == [0.0, 0.0]
    answering(server, whole(0, MESSAGE))

    async def closed() -> None:
        while any(breaker.state != "closed" for breaker in breakers):
            await ask(harness)
            await asyncio.sleep(0.01)

    async with asyncio.timeout(5):
        await closed()
