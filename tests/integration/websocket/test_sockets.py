"""The WebSocket service as a foreign client (`websockets`) meets it."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from typing import Any

import pytest
import websockets
from nexus_websocket import feeding
from websockets.asyncio.client import ClientConnection, connect

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


async def receive(client: ClientConnection, key: str) -> dict[str, Any]:
    """Return the next message that has the key."""
    async with asyncio.timeout(10):
        while True:
            message: dict[str, Any] = json.loads(await client.recv())
            if key in message:
                return message


async def subscribe(client: ClientConnection, channel: str, **more: Any) -> dict[str, Any]:
    await client.send(json.dumps({"subscribe": channel, **more}))
    return await receive(client, "subscribed")


def ws(server: Any) -> str:
    return f"{server.url.replace('http', 'ws')}/ws"


async def subscribed_at_events(bed: Any, events: Any) -> None:
    async with asyncio.timeout(10):
        while True:
            async with bed.http.get(f"{events.url}/subscriptions") as reply:
                if (await reply.json())["subscriptions"]:
                    return
            await asyncio.sleep(0.02)


EVENT = {"specversion": "1.0", "id": "1", "source": "/shop/orders", "type": "order.placed", "data": {"id": 7}}
HEADERS = {"content-type": "application/cloudevents+json"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_replica_is_ready_once_events_will_reach_it(bed: Any) -> None:
    """A client that is let in earlier would miss what happens until the subscription is made."""
    server = await bed.websocket(NEXUS_WEBSOCKET_EVENTS="order.placed=orders")
    async with bed.http.get(f"{server.url}/readyz") as reply:
        assert reply.status == 503
        assert "not subscribed yet" in (await reply.json())["checks"]["events"]
    events = await bed.events()
    async with asyncio.timeout(10):
        while True:
            async with bed.http.get(f"{server.url}/readyz") as reply:
                if reply.status == 200:
                    break
            await asyncio.sleep(0.02)
    async with bed.http.get(f"{events.url}/subscriptions") as reply:
        assert (await reply.json())["subscriptions"]


async def test_an_event_service_that_stays_away_keeps_nobody_from_the_rest(
    bed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "PATIENCE_S", 0.2)
    server = await bed.websocket(NEXUS_WEBSOCKET_EVENTS="order.placed=orders")
    async with asyncio.timeout(10):
        while True:
            async with bed.http.get(f"{server.url}/readyz") as reply:
                if reply.status == 200:
                    return
            await asyncio.sleep(0.02)


async def test_an_event_reaches_the_client_in_one_trace(bed: Any) -> None:
    events = await bed.events()
    server = await bed.websocket(NEXUS_WEBSOCKET_EVENTS="order.placed=orders")
    await subscribed_at_events(bed, events)
    async with connect(ws(server), subprotocols=["nexus.v1"]) as client:
        assert client.subprotocol == "nexus.v1"
        assert (await receive(client, "hello"))["hello"]["protocol"] == 1
        await subscribe(client, "orders")
        headers = {**HEADERS, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        async with bed.http.post(f"{events.url}/events", json=EVENT, headers=headers) as reply:
            assert (reply.status, (await reply.json())["durability"]) == (202, "fsynced")
        message = await receive(client, "channel")
    assert (message["channel"], message["data"]) == ("orders", {"id": 7})
    assert message["traceparent"].split("-")[1] == TRACE
    async with asyncio.timeout(5):
        while len(spans := bed.spans.get_finished_spans()) < 4 or not any(  # noqa: ASYNC110 - spans end after the delivery
            s.name.startswith("events deliver") for s in spans
        ):
            await asyncio.sleep(0.01)
    by_id = {span.context.span_id: span for span in spans}
    span = next(s for s in spans if s.name == "websocket deliver orders")
    assert span.attributes["nexus.receivers"] == 1
    way = []
    while span is not None:
        assert f"{span.context.trace_id:032x}" == TRACE
        way.append(span.name)
        span = by_id.get(span.parent.span_id)
    assert way == ["websocket deliver orders", "POST /ingest", "events deliver order.placed", "POST /events"]


async def test_the_subscription_is_made_again_when_the_event_service_lost_everything(
    bed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_EVENTS="order.*=orders", NEXUS_WEBSOCKET_TTL_SECONDS="1")
    async with connect(ws(server)) as client:
        await subscribe(client, "orders")
        for life in range(2):  # the first event service also comes up after its subscriber
            bed.directory = tmp_path_factory.mktemp("store")
            async with bed.stack.__class__() as life_stack:
                keep, bed.stack = bed.stack, life_stack
                events = await bed.events()
                bed.stack = keep
                await subscribed_at_events(bed, events)
                event = {**EVENT, "id": f"life-{life}", "data": {"life": life}}
                async with bed.http.post(f"{events.url}/events", json=event, headers=HEADERS) as reply:
                    assert reply.status == 202
                assert (await receive(client, "channel"))["data"] == {"life": life}


async def test_a_pushed_event_is_delivered_once_though_it_comes_twice(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_EVENTS="order.placed=orders")
    async with connect(ws(server)) as client:
        await subscribe(client, "orders")
        for number in (1, 1, 2):
            async with bed.http.post(
                f"{server.url}/ingest", json={**EVENT, "id": str(number), "data": number}, headers=HEADERS
            ) as reply:
                assert reply.status == 204
        assert [(await receive(client, "channel"))["data"] for _ in range(2)] == [1, 2]


async def test_post_publish_reaches_every_subscriber_with_the_same_bytes_and_nobody_else(bed: Any) -> None:
    server = await bed.websocket()
    async with connect(ws(server)) as first, connect(ws(server)) as second, connect(ws(server)) as other:
        for client, channel in ((first, "news"), (second, "news"), (other, "weather")):
            await subscribe(client, channel)
        async with bed.http.post(f"{server.url}/publish", json={"channel": "news", "data": ["grüße", 1]}) as reply:
            assert (await reply.json())["receivers"] == 2
        got = [await client.recv() for client in (first, second)]
        assert got[0] == got[1]
        assert json.loads(got[0])["data"] == ["grüße", 1]
        await other.send('{"ping": 1}')
        assert "pong" in json.loads(await other.recv())


async def test_clients_publish_only_where_they_may_and_resume_where_they_left(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_HISTORY="3")
    async with connect(ws(server)) as client:
        await client.send(json.dumps({"publish": {"channel": "news", "data": 1}, "ref": 9}))
        refused = await receive(client, "error")
        assert (refused["error"]["code"], refused["ref"]) == ("not-allowed", 9)
        await client.send(json.dumps({"publish": {"channel": "client-chat", "data": 1}}))
        assert (await receive(client, "error"))["error"]["code"] == "not-subscribed"
        start = (await subscribe(client, "client-chat"))["id"]
        ids = []
        for number in range(5):
            await client.send(json.dumps({"publish": {"channel": "client-chat", "data": number}}))
            message = await receive(client, "channel")
            assert message["data"] == number
            ids.append(message["id"])
    async with connect(ws(server)) as client:
        assert (await subscribe(client, "client-chat", after=ids[1]))["recovered"] is True
        assert [(await receive(client, "channel"))["id"] for _ in range(3)] == ids[2:]
        await client.send(json.dumps({"unsubscribe": "client-chat"}))
        await receive(client, "unsubscribed")
        for lost in (start, "another-epoch-7", "nonsense"):
            assert (await subscribe(client, "client-chat", after=lost))["recovered"] is False


async def test_a_resume_larger_than_the_queue_is_not_recovered_and_not_too_slow(bed: Any) -> None:
    """Closed as too slow it would come back with the same id, for ever."""
    server = await bed.websocket(NEXUS_WEBSOCKET_QUEUE_BYTES="20000")
    async with connect(ws(server)) as client:
        start = (await subscribe(client, "orders"))["id"]
        for number in range(10):
            await bed.http.post(f"{server.url}/publish", json={"channel": "orders", "data": [number, "x" * 5000]})
            last = (await receive(client, "channel"))["id"]
    async with connect(ws(server)) as client:
        answer = await subscribe(client, "orders", after=start)
        assert (answer["recovered"], answer["id"]) == (False, last)
        await client.send('{"ping": 1}')
        assert "pong" in json.loads(await client.recv())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", "invalid-message"), ("[]", "invalid-message"), ("{}", "invalid-message"),
        ('{"subscribe": 1}', "invalid-message"), ('{"subscribe": "a b"}', "invalid-channel"),
        ('{"subscribe": ""}', "invalid-channel"), ('{"subscribe": "a", "unsubscribe": "a"}', "invalid-message"),
        ('{"subscribe": "a", "colour": 1}', "invalid-message"), ("[" * 5000, "invalid-message"),
    ],
)  # fmt: skip
async def test_a_wrong_message_is_explained_and_the_connection_stays(bed: Any, message: str, code: str) -> None:
    server = await bed.websocket()
    async with connect(ws(server)) as client:
        await client.send(message)
        assert (await receive(client, "error"))["error"]["code"] == code
        await client.send('{"ping": true, "ref": "x"}')
        assert await receive(client, "pong") == {"pong": True, "ref": "x"}


async def closed_with(client: ClientConnection) -> int:
    with pytest.raises(websockets.ConnectionClosed) as stop:  # noqa: PT012 - reads until it ends
        async with asyncio.timeout(15):
            while True:
                await client.recv()
    assert stop.value.rcvd is not None, "the connection ended without a close code"
    return stop.value.rcvd.code


async def test_close_codes_of_wrong_clients(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_MAX_MESSAGE_BYTES="1000")
    async with connect(ws(server)) as client:
        await client.send(b"\x00")
        assert await closed_with(client) == 1003
    async with connect(ws(server)) as client:
        await client.send("x" * 2000)
        assert await closed_with(client) == 1009
    async with connect(ws(server)) as client:
        for _ in range(10):
            await client.send("x")
        assert await closed_with(client) == 4001


async def test_a_slow_client_is_closed_and_the_others_are_not(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_QUEUE_BYTES="65536")
    data = "x" * 16_000
    slow_socket = sockets.socket()
    slow_socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    slow_socket.connect((server.host, server.port))
    slow_socket.setblocking(False)
    async with connect(ws(server)) as quick, connect(ws(server), sock=slow_socket, max_queue=1) as slow:
        await subscribe(quick, "news")
        await subscribe(slow, "news")
        slow.transport.pause_reading()
        receivers, sent = 2, 0
        while receivers == 2:
            assert sent < 2000, "the slow client was never given up"
            async with bed.http.post(f"{server.url}/publish", json={"channel": "news", "data": data}) as reply:
                receivers = (await reply.json())["receivers"]
            sent += 1
            assert (await receive(quick, "channel"))["data"] == data
        slow.transport.resume_reading()
        assert await closed_with(slow) == 4101
    async with bed.http.get(f"{server.url}/metrics") as reply:
        assert 'nexus_websocket_closed_total{code="4101"} 1.0' in await reply.text()


async def test_a_client_that_never_reads_is_cut_off(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_QUEUE_BYTES="65536")
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=1024)
    text = b'{"subscribe":"news"}'
    writer.write(HANDSHAKE + bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b'"subscribed":"news"')
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    receivers = 1
    while receivers:
        async with bed.http.post(f"{server.url}/publish", json={"channel": "news", "data": "x" * 60_000}) as reply:
            receivers = (await reply.json())["receivers"]
    async with asyncio.timeout(10):
        while True:
            async with bed.http.get(f"{server.url}/metrics") as reply:
                if "nexus_websocket_connections 0.0" in await reply.text():
                    break
            await asyncio.sleep(0.05)
    writer.transport.abort()


async def test_beyond_the_limit_of_connections_there_is_503(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_MAX_CONNECTIONS="1")
    async with connect(ws(server)) as client:
        await receive(client, "hello")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(ws(server))
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"] == "5"
    async with bed.http.get(f"{server.url}/ws") as reply:
        assert (reply.status, (await reply.json())["reason"]) == (426, "UpgradeRequired")


async def test_a_client_that_does_not_answer_pings_is_dropped_and_one_that_does_stays(bed: Any) -> None:
    server = await bed.websocket(NEXUS_WEBSOCKET_PING_SECONDS="1.5")
    # The good one first: when the other's time to answer is over, its own is too. Half of the period is that time, so
    # the period must be long enough for a busy machine.
    async with connect(ws(server)) as good:
        await receive(good, "hello")
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(HANDSHAKE)
        async with asyncio.timeout(10):
            await reader.read(-1)  # until the server ends it
        await good.send('{"ping": 1}')
        await receive(good, "pong")
    writer.close()


async def test_a_stop_closes_clients_with_1012(bed: Any) -> None:
    inner = bed.stack.__class__()
    keep, bed.stack = bed.stack, inner
    server = await bed.websocket()
    bed.stack = keep
    async with connect(ws(server)) as client:
        await subscribe(client, "news")
        stopping = asyncio.create_task(inner.aclose())
        assert await closed_with(client) == 1012
        await asyncio.wait_for(stopping, 10)
