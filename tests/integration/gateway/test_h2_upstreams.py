"""Upstreams of HTTP/2, and both protocols on both sides in every combination."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError, web
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from nexus_core.snapshot import (
    CircuitBreaker,
    Concurrency,
    Fallback,
    HeaderModifier,
    Hedge,
    Mirror,
    Retry,
    SizeLimit,
    UpstreamTls,
)
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream
from nexus_wire.client import Broken
from nexus_wire.http2 import frames
from nexus_wire.testing import Answer

from tests.integration.gateway.echoes import PROTOCOLS, Connect, Echo, Listen, ask, combinations
from tests.integration.h2_servers import OK, Call, Peer, Server
from tests.integration.tls.conftest import Authority


def via(port: int, protocol: str, **policies: Any) -> Any:
    return simple(port, protocol="h2" if protocol == "h2" else "http", **policies)


pytestmark = pytest.mark.usefixtures("loop_errors")
both = pytest.mark.parametrize("client", PROTOCOLS)


# ---- every combination


@combinations
async def test_requests_of_every_shape(
    harness: Harness, connect: Connect, listen: Listen, echo: Echo, client: str, server: str
) -> None:
    await harness.start(via(await listen(server), server))
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"GET /a?b=c")
        assert (got.status, got.body) == (200, b"")
        assert b"x-length: 0\r\n" in got.trailers
        got = await ask(connection, b"POST /sized", [b"sized"], sized=5)
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"sized", "5")
        got = await ask(connection, b"POST /framed", [b"one ", b"two"], sized=None, trailers=b"x-sent: yes\r\n")
        assert (got.status, got.body, got.trailers) == (200, b"one two", b"x-length: 7\r\nx-got: yes\r\n")
        for body in (b"at once", b""):
            got = await ask(connection, b"POST /framed", [body], sized=None, trailers=b"x-sent: yes\r\n")
            assert (got.status, got.body, got.trailers) == (200, body, b"x-length: %d\r\nx-got: yes\r\n" % len(body))
        got = await ask(connection, b"HEAD /sized")
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "7")
        got = await ask(connection, b"GET /204")
        assert (got.status, got.body) == (204, b"")
        assert "content-length" not in got.headers
        got = await ask(connection, b"GET /304")
        assert (got.status, got.body) == (304, b"")
        got = await ask(connection, b"GET /hints")
        assert (got.status, got.interim) == (200, [103])
    for head in echo.heads:
        assert head["x-forwarded-for"] == "127.0.0.1"
        assert len(head["x-request-id"]) == 32
        if server == "h2":
            assert head[":authority"] == "x"
            assert not {"connection", "transfer-encoding", "host", "upgrade"} & set(head)
    assert harness.gateway is not None
    assert harness.gateway.proxy.connector.open_connections == 1


@combinations
async def test_large_bodies_pass_whole_both_ways(
    harness: Harness, connect: Connect, listen: Listen, client: str, server: str
) -> None:
    await harness.start(via(await listen(server), server))
    body = bytes(range(256)) * 12_000
    pieces = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
    connection = await connect(client)
    got = await ask(connection, b"POST /framed", pieces, sized=None, trailers=b"x-sent: all\r\n")
    assert got.body == body
    assert got.trailers == b"x-length: %d\r\nx-got: all\r\n" % len(body)
    got = await ask(connection, b"POST /sized", pieces, sized=len(body))
    assert got.body == body


@combinations
async def test_filters_see_heads_as_ever(
    harness: Harness, connect: Connect, listen: Listen, echo: Echo, client: str, server: str
) -> None:
    filters = (
        HeaderModifier("request", set=(("x-set", "1"),), remove=("x-gone",)),
        HeaderModifier("response", set=(("x-back", "2"),)),
    )
    world = snapshot(
        route(rule("shop/orders", filters=filters)),
        upstream(await listen(server), protocol="h2" if server == "h2" else "http"),
    )
    await harness.start(world)
    got = await ask(await connect(client), b"POST /framed", [b"x"], sized=None, lines=b"x-gone: 1\r\nx-kept: 1\r\n")
    assert (got.body, got.headers["x-back"]) == (b"x", "2")
    (head,) = echo.heads
    assert (head["x-set"], head["x-kept"], "x-gone" in head) == ("1", "1", False)


@combinations
async def test_a_limit_of_size_holds_for_bodies_that_say_no_length(
    harness: Harness, connect: Connect, listen: Listen, client: str, server: str
) -> None:
    limit = SizeLimit(request_bytes=10, response_bytes=5)
    world = snapshot(
        route(rule("shop/orders", filters=(limit,))),
        upstream(await listen(server), protocol="h2" if server == "h2" else "http"),
    )
    await harness.start(world)
    assert (await ask(await connect(client), b"POST /framed", [b"12345"], sized=None)).body == b"12345"
    answer = Answer()
    connection = await connect(client)
    connection.begin(answer, b"POST /framed HTTP/1.1\r\nhost: x\r\n\r\n123456", raw=True)
    await asyncio.sleep(0.01)
    connection.write(b"78901")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert answer.status == 413
    got = await ask(await connect(client), b"POST /framed", [b"1234567"], sized=None)
    assert (got.status, b"ResponseTooLarge" in got.body) == (502, True)


@both
async def test_an_answer_may_come_before_the_request_has_ended(harness: Harness, connect: Connect, client: str) -> None:
    """And ends it: the rest is taken from nobody."""
    server = Server()
    server.on_call = lambda peer, call, what: peer.answer(call, b"enough") if what == "head" else None
    listening = await server.listen()
    await harness.start(via(server.port, "h2"))
    connection = await connect(client)
    answer = Answer()
    connection.begin(answer, b"POST / HTTP/1.1\r\nhost: x\r\n\r\nfirst", raw=True)
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, b"enough" in answer.body) == (200, True)
    await until(lambda: server.calls[0].reset is not None)
    assert server.calls[0].reset == ErrorCodes.CANCEL
    listening.close()


@both
async def test_a_client_that_leaves_resets_its_stream(harness: Harness, connect: Connect, client: str) -> None:
    server = Server()
    server.on_call = lambda peer, call, what: None
    listening = await server.listen()
    await harness.start(via(server.port, "h2"))
    connection = await connect(client)
    connection.begin(Answer(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await until(lambda: server.calls)
    connection.abort()
    await until(lambda: server.calls[0].reset == ErrorCodes.CANCEL)
    assert harness.gateway is not None
    assert harness.gateway.proxy.connector.open_connections == 1
    listening.close()


@both
async def test_a_response_that_breaks_off_is_not_taken_for_a_whole_one(
    harness: Harness, connect: Connect, client: str
) -> None:
    server = Server()

    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            peer.h2.send_headers(call.stream, OK)
            peer.h2.send_data(call.stream, b"half")
            asyncio.get_running_loop().call_later(0.05, reset, peer, call)

    def reset(peer: Peer, call: Call) -> None:
        peer.h2.reset_stream(call.stream, ErrorCodes.INTERNAL_ERROR)
        peer.flush()

    server.on_call = on_call
    listening = await server.listen()
    await harness.start(via(server.port, "h2"))
    answer = Answer()
    (await connect(client)).begin(answer, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, answer.broken) == (200, Broken.CLOSED)
    listening.close()


# ---- connections and streams


async def fetch(harness: Harness, path: str = "/", **options: Any) -> tuple[int, str]:
    assert harness.client is not None
    async with harness.client.request(options.pop("method", "GET"), harness.url(path), **options) as response:
        return response.status, await response.text()


async def test_requests_that_come_at_once_share_the_connection_that_is_being_opened(
    harness: Harness, listen: Listen, echo: Echo
) -> None:
    gateway = await harness.start(via(await listen("h2"), "h2"))
    got = await asyncio.gather(*(fetch(harness, "/sized", method="POST", data=b"%d" % number) for number in range(60)))
    assert got == [(200, str(number)) for number in range(60)]
    assert len(echo.server.peers) == 1
    assert gateway.proxy.connector.opened == 1


async def test_the_servers_streams_and_the_upstreams_connections_are_limits(
    harness: Harness, listen: Listen, echo: Echo
) -> None:
    """The others wait for their turn."""
    echo.server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
    running = most = 0
    answer = echo.server.on_call

    def on_call(peer: Peer, call: Call, what: str) -> None:
        nonlocal running, most
        if what == "end":
            running += 1
            most = max(most, running)
            asyncio.get_running_loop().call_later(0.005, later, peer, call)
        else:
            answer(peer, call, what)

    def later(peer: Peer, call: Call) -> None:
        nonlocal running
        running -= 1
        answer(peer, call, "end")
        peer.flush()

    echo.server.on_call = on_call
    await harness.start(via(await listen("h2"), "h2", concurrency=Concurrency(max_connections=2)))
    got = await asyncio.gather(*(fetch(harness, "/sized", method="POST", data=b"%d" % number) for number in range(40)))
    assert got == [(200, str(number)) for number in range(40)]
    assert len(echo.server.peers) == 2
    assert most == 6


async def test_streams_that_the_server_has_not_seen_are_sent_again_whatever_they_do(
    harness: Harness, listen: Listen, echo: Echo
) -> None:
    """A connection that goes away, then one stream that is refused: no client learns of it, though the policy retries nothing."""
    await harness.start(via(await listen("h2"), "h2", retry=Retry(attempts=0)))
    assert await fetch(harness, "/sized", method="POST", data=b"0") == (200, "0")
    answer = echo.server.on_call

    def leave(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            echo.server.on_call = answer
            peer.transport.write(frames.goaway(call.stream - 2, 0))

    echo.server.on_call = leave
    assert await fetch(harness, "/sized", method="POST", data=b"1") == (200, "1")
    assert len(echo.server.peers) == 2

    def refuse(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            echo.server.on_call = answer
            peer.h2.reset_stream(call.stream, ErrorCodes.REFUSED_STREAM)

    echo.server.on_call = refuse
    assert await fetch(harness, "/sized", method="POST", data=b"2") == (200, "2")
    assert len(echo.server.peers) == 3


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(
    harness: Harness, listen: Listen, echo: Echo
) -> None:
    await harness.start(via(await listen("h2"), "h2"))
    assert await fetch(harness, "/sized", method="POST", data=b"0") == (200, "0")
    echo.server.on_call = lambda peer, call, what: (
        peer.h2.reset_stream(call.stream, ErrorCodes.REFUSED_STREAM) if what == "end" else None
    )
    status, text = await fetch(harness, method="POST", data=b"x")
    assert (status, "UpstreamReset" in text) == (502, True)
    assert 2 <= len(echo.server.calls) <= 6


async def test_a_reset_is_retried_as_the_policy_says(harness: Harness, listen: Listen, echo: Echo) -> None:
    await harness.start(via(await listen("h2"), "h2", retry=Retry(attempts=2, on=("reset",))))
    answer = echo.server.on_call

    def reset(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            echo.server.on_call = answer
            peer.h2.reset_stream(call.stream, ErrorCodes.INTERNAL_ERROR)

    echo.server.on_call = reset
    assert (await fetch(harness))[0] == 200
    echo.server.on_call = reset
    assert (await fetch(harness, method="POST", data=b"x"))[0] == 502, "the server may have acted on it"
    assert len(echo.server.peers) == 1, "the connection is as good as before"


async def test_a_connection_that_dies_idle_costs_no_request(harness: Harness, listen: Listen, echo: Echo) -> None:
    await harness.start(via(await listen("h2"), "h2", retry=Retry(attempts=0)))
    for number in range(3):
        assert (await fetch(harness))[0] == 200
        assert len(echo.server.peers) == number + 1
        echo.server.peers[-1].transport.abort()


async def test_the_connections_of_an_endpoint_that_left_end_with_their_exchanges(
    harness: Harness, listen: Listen, echo: Echo
) -> None:
    gateway = await harness.start(via(await listen("h2"), "h2"))
    waiting: list[tuple[Peer, Call]] = []
    answer = echo.server.on_call
    echo.server.on_call = lambda peer, call, what: waiting.append((peer, call)) if what == "end" else None
    asking = asyncio.create_task(fetch(harness, "/sized", method="POST", data=b"x"))
    await until(lambda: waiting)
    other = Server()
    listening = await other.listen()
    await harness.publish(via(other.port, "h2"))
    assert (await fetch(harness))[0] == 200
    assert not asking.done()
    answer(*waiting[0], "end")
    waiting[0][0].flush()
    assert await asking == (200, "x")
    await until(lambda: echo.server.peers[0].terminated)
    await until(lambda: gateway.proxy.connector.open_connections == 1)
    listening.close()


async def test_idle_connections_age_out(harness: Harness, listen: Listen, echo: Echo) -> None:
    gateway = await harness.start(via(await listen("h2"), "h2"))
    await asyncio.gather(*(fetch(harness) for _ in range(5)))
    connector = gateway.proxy.connector
    assert connector.open_connections == 1
    gateway.proxy.clock.tick += 1000
    connector.sweep()
    await until(lambda: connector.open_connections == 0)
    assert echo.server.peers[0].terminated
    assert (await fetch(harness))[0] == 200


async def test_a_server_of_http_1_is_named_for_what_it_is(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="a page")

    port = await harness.upstreams.start(page)
    await harness.start(via(port, "h2"))
    with caplog.at_level(logging.WARNING, "nexus.gateway.connections"):
        status, text = await fetch(harness)
        await fetch(harness)
    assert (status, "UpstreamConnectFailure" in text) == (502, True)
    told = [record.getMessage() for record in caplog.records if "HTTP/2" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"127.0.0.1:{port} (shop/orders) is to be asked over HTTP/2, and ")


async def test_copies_and_fallbacks_go_over_http_2_as_well(harness: Harness, listen: Listen, echo: Echo) -> None:
    copies = Server()
    listening = await copies.listen()
    main = rule("shop/orders", filters=(Mirror("shop/copies"),))
    last = rule("shop/gone", rule_id="HTTPRoute/shop/main/1", path="/sized", filters=(Fallback("shop/orders"),))
    world = snapshot(
        route(last, main),
        upstream(await listen("h2"), protocol="h2"),
        upstream(copies.port, upstream_id="shop/copies", protocol="h2"),
        upstream(1, upstream_id="shop/gone", protocol="h2"),
    )
    await harness.start(world)
    assert (await fetch(harness, "/framed", method="POST", data=b"x")) == (200, "x")
    await until(lambda: copies.calls and copies.calls[0].ended)
    assert copies.calls[0].body == b"x"
    assert copies.calls[0].header(b"x-nexus-mirror") == b"1"
    assert await fetch(harness, "/sized", method="POST", data=b"last") == (200, "last")
    listening.close()


async def test_a_copy_has_the_trailers_too(harness: Harness, connect: Connect, listen: Listen, echo: Echo) -> None:
    copies = Server()
    listening = await copies.listen()
    world = snapshot(
        route(rule("shop/orders", filters=(Mirror("shop/copies"),))),
        upstream(await listen("h1")),
        upstream(copies.port, upstream_id="shop/copies", protocol="h2"),
    )
    await harness.start(world)
    got = await ask(await connect("h2"), b"POST /framed", [b"x"], sized=None, trailers=b"x-sent: yes\r\n")
    assert (got.body, got.trailers) == (b"x", b"x-length: 1\r\nx-got: yes\r\n")
    await until(lambda: copies.calls and copies.calls[0].ended)
    assert (copies.calls[0].body, copies.calls[0].trailers) == (b"x", [(b"x-sent", b"yes")])
    listening.close()


async def test_a_websocket_stays_a_request_where_http_2_is_spoken(harness: Harness, listen: Listen, echo: Echo) -> None:
    await harness.start(via(await listen("h2"), "h2"))
    assert harness.client is not None
    with pytest.raises(WSServerHandshakeError) as raised:
        await harness.client.ws_connect(harness.url("/"))
    assert raised.value.status == 200
    (head,) = echo.heads
    assert not {"upgrade", "connection"} & set(head)
    assert (await fetch(harness))[0] == 200


# ---- policies that judge endpoints


async def test_failing_endpoints_open_their_circuit_and_a_probe_closes_it(
    harness: Harness, listen: Listen, echo: Echo
) -> None:
    breaker = CircuitBreaker(failures=3, reset_s=0.3)
    await harness.start(via(await listen("h2"), "h2", breaker=breaker, retry=Retry(attempts=0)))
    answer = echo.server.on_call
    echo.server.on_call = lambda peer, call, what: (
        peer.h2.reset_stream(call.stream, ErrorCodes.INTERNAL_ERROR) if what == "end" else None
    )
    texts = [await fetch(harness) for _ in range(6)]
    assert [status for status, _ in texts] == [502] * 3 + [503] * 3
    assert "CircuitOpen" in texts[-1][1]
    assert len(echo.server.calls) == 3
    echo.server.on_call = answer

    async def closed() -> bool:
        return (await fetch(harness))[0] == 200

    await until(closed)


async def test_a_hedge_wins_and_the_slow_stream_is_reset(harness: Harness) -> None:
    """The two run on connections of their own endpoints; the slow one's goes on to serve."""
    servers = [Server(), Server()]
    listening = [await server.listen() for server in servers]
    hedge = Hedge(percentile=0.9, budget_ratio=1.0)
    ports = [server.port for server in servers]
    addresses = upstream(*ports, protocol="h2", hedge=hedge, breaker=CircuitBreaker(failures=1000))
    await harness.start(snapshot(route(rule("shop/orders")), addresses))
    await asyncio.gather(*(fetch(harness) for _ in range(150)))
    await asyncio.sleep(1.1)  # the percentile is worked out once a second
    servers[0].on_call = lambda peer, call, what: None
    assert [(await fetch(harness))[0] for _ in range(8)] == [200] * 8
    slow = [call for call in servers[0].calls if call.reset is not None]
    assert slow
    assert {call.reset for call in slow} == {ErrorCodes.CANCEL}
    assert len(servers[0].peers) <= 2
    for each in listening:
        each.close()


# ---- TLS


@pytest.mark.parametrize("alpn", [["h2"], ["http/1.1"], []])
async def test_over_tls_the_server_has_to_choose_http_2(
    harness: Harness, listen: Listen, echo: Echo, tmp_path: Path, alpn: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    authority.write(tmp_path, "server", "orders.shop")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    if alpn:
        context.set_alpn_protocols(alpn)
    port = await listen("h2", ssl=context)
    await harness.start(via(port, "h2", tls=UpstreamTls("orders.shop", authority.pem)))
    status, text = await fetch(harness, "/sized", method="POST", data=b"secret")
    if alpn == ["h2"]:
        assert (status, text) == (200, "secret")
        assert echo.heads[0][":scheme"] == "https"
        assert (await fetch(harness))[0] == 200
        assert len(echo.server.peers) == 1
    else:
        assert (status, "UpstreamConnectFailure" in text) == (502, True)
        assert "did not choose h2 in the TLS handshake (ALPN)" in caplog.text
        assert not echo.heads
