"""The ServiceClient against real aiohttp servers that answer, break, hang, die and come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_sdk import deadlines
from nexus_sdk.client import ClientSettings, ServiceClient
from nexus_sdk.errors import ConnectionLost, DeadlineExceeded, PeerError, ServiceUnavailable, UsageError
from nexus_sdk.testing import MemoryDiscovery

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """One server on one port, which can be killed and started again there."""

    def __init__(self, handler: Handler) -> None:
        self._handler, self.seen = handler, list[web.Request]()
        self.port = 0
        self._runner: web.ServerRunner | None = None

    async def _serve(self, request: Any) -> web.StreamResponse:
        self.seen.append(request)
        return await self._handler(request)

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)


class World:
    def __init__(self) -> None:
        self.discovery = MemoryDiscovery()
        self._stack = contextlib.AsyncExitStack()

    async def peer(self, handler: Handler) -> Peer:
        peer = Peer(handler)
        await peer.start()
        self._stack.push_async_callback(peer.stop)
        return peer

    def client(self, **settings: Any) -> ServiceClient:
        client = ServiceClient(self.discovery, "shop", settings=ClientSettings(**settings), rng=random.Random(3))
        self._stack.push_async_callback(client.close)
        return client


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world._stack:
        yield world


def replying(status: int = 200, body: bytes = b"{}", **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return handle


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def hang_up(request: web.Request) -> web.StreamResponse:
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    raise web.HTTPOk


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


async def test_short_names_are_in_the_own_namespace_and_long_ones_are_not(world: World) -> None:
    own, other = await world.peer(replying(200)), await world.peer(replying(202))
    world.discovery.set("orders.shop", [own.endpoint])
    world.discovery.set("orders.other", [other.endpoint])
    client = world.client()
    assert (await client.get("orders", "/")).status == 200
    assert (await client.get("orders.other", "/")).status == 202


async def test_a_request_arrives_as_it_was_given(world: World) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"method": request.method, "path": request.raw_path, "type": request.content_type,
                                  "body": await request.text(), "x": request.headers["x-a"]})  # fmt: skip

    world.discovery.set("orders.shop", [(await world.peer(echo)).endpoint])
    answer = await world.client().post("orders", "/a%2Fb", json={"ü": 1}, params={"q": "1 2"}, headers={"x-a": "b"})
    assert answer.json() == {
        "method": "POST", "path": "/a%2Fb?q=1+2", "type": "application/json", "body": '{"ü":1}', "x": "b",
    }  # fmt: skip
    assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_path_cannot_leave_the_chosen_instance(world: World) -> None:
    peer = await world.peer(replying())
    world.discovery.set("orders.shop", [peer.endpoint])
    await world.client().get("orders", "//evil.example/x")
    assert peer.seen[0].path == "//evil.example/x"
    with pytest.raises(UsageError, match="is not absolute"):
        await world.client().get("orders", "http://evil.example/x")


async def test_nobody_registered(world: World) -> None:
    with pytest.raises(ServiceUnavailable, match=r"no instance of orders\.shop is registered. Start it") as caught:
        await world.client().get("orders", "/")
    assert (caught.value.fault, caught.value.retryable, caught.value.status) == ("environment", True, 503)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_idempotent_requests_are_tried_at_another_instance(world: World, method: str) -> None:
    bad, good = await world.peer(replying(503)), await world.peer(replying(200))
    world.discovery.set("orders.shop", [bad.endpoint, good.endpoint])
    client = world.client(balancing="round-robin", budget_percent=100)
    assert [(await client.request(method, "orders", "/")).status for _ in range(4)] == [200] * 4
    assert bad.seen


@pytest.mark.parametrize(("idempotent", "tries"), [(None, 1), (True, 3)])
async def test_a_post_is_repeated_only_if_the_caller_says_so(world: World, idempotent: bool | None, tries: int) -> None:
    peer = await world.peer(hang_up)
    world.discovery.set("orders.shop", [peer.endpoint])
    with pytest.raises(ConnectionLost, match=r"POST orders\.shop/x at 127\.0\.0\.1"):
        await world.client().post("orders", "/x", json={}, idempotent=idempotent)
    assert len(peer.seen) == tries


async def test_a_post_that_was_never_sent_is_tried_at_another_instance(world: World) -> None:
    good = await world.peer(replying(201))
    world.discovery.set("orders.shop", [Endpoint("127.0.0.1", free_port()), good.endpoint])
    client = world.client(balancing="round-robin", failures=100)
    assert [(await client.post("orders", "/", json={})).status for _ in range(3)] == [201] * 3
    assert len(good.seen) == 3  # as many retries as the budget grants a quiet client


async def test_answers_of_the_application_are_not_retried(world: World) -> None:
    peer = await world.peer(replying(500, b'{"reason":"Bug"}'))
    world.discovery.set("orders.shop", [peer.endpoint])
    answer = await world.client().get("orders", "/")
    assert (answer.status, answer.ok, answer.json(), len(peer.seen)) == (500, False, {"reason": "Bug"}, 1)


async def test_the_last_503_is_handed_on_with_its_body(world: World) -> None:
    peer = await world.peer(replying(503, b"later"))
    world.discovery.set("orders.shop", [peer.endpoint])
    answer = await world.client(attempts=2).get("orders", "/")
    assert (answer.status, answer.body, len(peer.seen)) == (503, b"later", 2)


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(world: World) -> None:
    peer = await world.peer(replying(503, **{"retry-after": "60"}))
    world.discovery.set("orders.shop", [peer.endpoint])
    async with asyncio.timeout(1):
        assert (await world.client().get("orders", "/")).status == 503
    assert len(peer.seen) == 1


async def test_retries_stay_within_the_budget(world: World) -> None:
    peer = await world.peer(replying(503))
    world.discovery.set("orders.shop", [peer.endpoint])
    client = world.client(failures=10_000, budget_percent=10)
    for _ in range(100):
        await client.get("orders", "/")
    assert 103 <= len(peer.seen) <= 110


async def test_the_deadline_ends_the_call_and_is_told_to_the_peer(world: World) -> None:
    peer = await world.peer(hang)
    world.discovery.set("orders.shop", [peer.endpoint])
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(DeadlineExceeded, match=r"GET orders\.shop/x"):
        await world.client().get("orders", "/x", deadline_s=0.15)
    assert loop.time() - started < 1
    assert 0 < float(peer.seen[0].headers["x-request-timeout"]) <= 0.15


async def test_a_try_that_takes_too_long_is_made_elsewhere(world: World) -> None:
    slow, good = await world.peer(hang), await world.peer(replying(200))
    world.discovery.set("orders.shop", [slow.endpoint, good.endpoint])
    client = world.client(balancing="round-robin", try_timeout_s=0.1)
    assert [(await client.get("orders", "/")).status for _ in range(2)] == [200, 200]
    assert slow.seen


async def test_the_deadline_of_the_request_being_handled_is_inherited(world: World) -> None:
    peer = await world.peer(replying())
    world.discovery.set("orders.shop", [peer.endpoint])
    client = world.client()
    token = deadlines.enter(asyncio.get_running_loop().time() + 0.5)
    try:
        await client.get("orders", "/", deadline_s=60)
    finally:
        deadlines.leave(token)
    assert float(peer.seen[0].headers["x-request-timeout"]) <= 0.5


async def test_the_circuit_opens_refuses_and_closes_again_when_the_peer_is_back(world: World) -> None:
    peer = await world.peer(replying())
    world.discovery.set("orders.shop", [peer.endpoint])
    client = world.client(failures=3, reset_s=0.3, attempts=1)
    assert (await client.get("orders", "/")).status == 200
    await peer.stop()
    for _ in range(3):
        with pytest.raises(ServiceUnavailable, match="no connection"):
            await client.get("orders", "/")
    assert client.breakers() == {"orders.shop": {peer.endpoint.authority: "open"}}
    with pytest.raises(ServiceUnavailable, match=r"circuit of every instance is open \(127.*after 3 failures"):
        await client.get("orders", "/")
    await peer.start()
    async with asyncio.timeout(5):
        while True:
            try:
                answer = await client.get("orders", "/")
                break
            except ServiceUnavailable:
                await asyncio.sleep(0.02)
    assert answer.status == 200
    assert client.breakers() == {"orders.shop": {peer.endpoint.authority: "closed"}}


async def test_a_killed_instance_costs_no_idempotent_request(world: World) -> None:
    dying, staying = await world.peer(replying()), await world.peer(replying())
    world.discovery.set("orders.shop", [dying.endpoint, staying.endpoint])
    client = world.client()
    statuses = []
    for number in range(60):
        if number == 20:
            await dying.stop()
        statuses.append((await client.get("orders", "/")).status)
    assert statuses == [200] * 60
    assert dying.seen
    assert len(staying.seen) >= 40


@pytest.mark.parametrize("length", [True, False])
async def test_an_answer_above_the_bound_is_refused_and_is_no_reason_to_open_the_circuit(
    world: World, length: bool
) -> None:
    async def large(request: web.Request) -> web.StreamResponse:
        if length:
            return web.Response(body=b"x" * 2001)
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client leaves in the middle: what is tested
            for _ in range(1000):
                await answer.write(b"x" * 2001)
        return answer

    peer = await world.peer(large)
    world.discovery.set("orders.shop", [peer.endpoint])
    client = world.client(max_response_bytes=2000, failures=1, attempts=1)
    for _ in range(2):
        with pytest.raises(PeerError, match="larger than 2000 bytes"):
            await client.get("orders", "/")


async def test_an_answer_that_is_not_http_is_the_peers_fault(world: World) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        world.discovery.set("orders.shop", [Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])])
        with pytest.raises(PeerError, match="is not HTTP") as caught:
            await world.client(attempts=1).get("orders", "/")
    assert caught.value.fault == "peer"


async def test_a_body_that_is_not_json_is_the_peers_fault(world: World) -> None:
    world.discovery.set("orders.shop", [(await world.peer(replying(200, b"<html>"))).endpoint])
    answer = await world.client().get("orders", "/")
    with pytest.raises(PeerError, match=r"orders\.shop answered 200 with a body that is not JSON"):
        answer.json()


async def test_instances_that_come_and_go_are_followed(world: World) -> None:
    first, second = await world.peer(replying(200)), await world.peer(replying(201))
    world.discovery.set("orders.shop", [first.endpoint])
    client = world.client()
    assert (await client.get("orders", "/")).status == 200
    world.discovery.set("orders.shop", [second.endpoint])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await client.get("orders", "/")).status == 201


async def test_a_body_of_megabytes_arrives_also_when_it_is_sent_again(world: World) -> None:
    sizes = list[int]()

    async def count(request: web.Request) -> web.Response:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        sizes.append(size)
        return web.Response(status=503 if len(sizes) == 1 else 200)

    world.discovery.set("orders.shop", [(await world.peer(count)).endpoint])
    answer = await world.client().request("PUT", "orders", "/", data=b"x" * 3_000_000)
    assert (answer.status, sizes) == (200, [3_000_000, 3_000_000])


async def test_the_number_of_watched_services_is_bounded(world: World) -> None:
    peer, client = await world.peer(replying()), world.client(services=3)
    for number in range(10):
        world.discovery.set(f"s{number}.shop", [peer.endpoint])
        await client.get(f"s{number}", "/")
    assert list(client.breakers()) == ["s7.shop", "s8.shop", "s9.shop"]


async def test_a_closed_client_leaves_nothing_and_refuses(world: World) -> None:
    world.discovery.set("orders.shop", [(await world.peer(replying())).endpoint])
    client = world.client()
    await client.get("orders", "/")
    await client.close()
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("nexus-client")]
    with pytest.raises(UsageError, match="the client is closed"):
        await client.get("orders", "/")
