"""The event service and its subscribers over real HTTP."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_events.app import build
from nexus_sdk.app import RunningService
from nexus_sdk.discovery.memory import MemoryDiscovery

HEADERS = {"content-type": "application/cloudevents+json"}
Answer = Callable[[str, int], Awaitable[web.Response] | web.Response]


class Subscriber:
    """Answers as `answer(id, how often this id came before)` says, and remembers what it got."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.got: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.port = 0
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    async def take(self, request: web.Request) -> web.Response:
        await request.read()
        name = request.headers["ce-id"]
        before = self.got.count(name)
        self.got.append(name)
        self.heads.append({k.lower(): v for k, v in request.headers.items()})
        async with self._news:
            self._news.notify_all()
        if self.answer is None:
            return web.Response(status=204)
        answer = self.answer(name, before)
        return answer if isinstance(answer, web.Response) else await answer

    async def until(self, number: int) -> list[str]:
        async with asyncio.timeout(15), self._news:
            await self._news.wait_for(lambda: len(self.got) >= number)
        return self.got


class Bed:
    def __init__(self, directory: Path, stack: AsyncExitStack, http: aiohttp.ClientSession) -> None:
        self.directory, self.stack, self.http = directory, stack, http
        self.discovery = MemoryDiscovery()
        self.url = ""

    async def start(self, stack: AsyncExitStack | None = None, **environ: str) -> RunningService:
        app = build({"NEXUS_DATA_DIR": str(self.directory), **environ}, discovery=self.discovery)
        server = await (stack or self.stack).enter_async_context(app.test_server())
        self.url = server.url
        return server

    async def subscriber(self, answer: Answer | None = None) -> Subscriber:
        made, application = Subscriber(answer), web.Application()
        application.router.add_post("/in", made.take)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.port = runner.addresses[0][1]
        return made

    async def call(self, method: str, path: str, document: Any = None, *, status: int | None = None) -> Any:
        async with self.http.request(method, f"{self.url}{path}", json=document) as reply:
            body = await reply.read()
            assert status is None or reply.status == status, (reply.status, body)
            return json.loads(body) if body else None

    async def subscribe(self, name: str, sink: Any, **more: Any) -> Any:
        return await self.call("PUT", f"/subscriptions/{name}", {"sink": sink, "types": ["*"], **more})

    async def publish(self, *names: str, event_type: str = "t", status: int = 202) -> Any:
        events = [{"specversion": "1.0", "id": n, "source": "/s", "type": event_type, "data": {"n": n}} for n in names]
        headers = {"content-type": "application/cloudevents-batch+json"}
        async with self.http.post(f"{self.url}/events", json=events, headers=headers) as reply:
            document = await reply.json()
            assert reply.status == status, document
            return document

    async def eventually(self, path: str, is_so: Callable[[Any], bool]) -> Any:
        """Poll the service's own state until it is so, and return it."""
        async with asyncio.timeout(15):
            while not is_so(document := await self.call("GET", path)):  # noqa: ASYNC110 - it has no event to await from outside
                await asyncio.sleep(0.02)
        return document


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with AsyncExitStack() as stack:
        yield Bed(tmp_path, stack, await stack.enter_async_context(aiohttp.ClientSession()))


async def test_events_arrive_in_order_filtered_by_type_and_are_not_changed(bed: Bed) -> None:
    await bed.start()
    subscriber = await bed.subscriber()
    await bed.publish("before")
    await bed.subscribe("a", subscriber.url, types=["order.*"])
    await bed.publish("1", "2", event_type="order.placed")
    await bed.publish("x", event_type="user.made")
    answer = await bed.publish("2", "3", event_type="order.paid")
    assert answer == {"accepted": 2, "duplicates": 1, "durability": "fsynced", "offsets": [3, 5]}
    assert await subscriber.until(3) == ["1", "2", "3"]
    head = subscriber.heads[-1]
    assert (head["ce-type"], head["content-type"], head["nexus-event-offset"]) == (
        "order.paid",
        "application/json",
        "5",
    )


async def test_a_service_is_found_through_discovery_and_may_come_later(bed: Bed) -> None:
    await bed.start()
    await bed.subscribe("a", {"service": "billing", "path": "/in"})
    await bed.publish("1")
    await bed.eventually("/subscriptions/a", lambda s: "no instance" in s["status"]["lastError"])
    subscriber = await bed.subscriber()
    bed.discovery.set("billing.default", [Endpoint("127.0.0.1", subscriber.port)])
    assert await subscriber.until(1) == ["1"]


async def test_a_failing_event_is_repeated_before_the_next_one(bed: Bed) -> None:
    await bed.start()
    subscriber = await bed.subscriber(
        lambda name, before: web.Response(status=500 if name == "1" and before < 2 else 200)
    )
    await bed.subscribe("a", subscriber.url)
    await bed.publish("1", "2")
    assert await subscriber.until(4) == ["1", "1", "1", "2"]
    state = await bed.eventually("/subscriptions/a", lambda s: s["status"]["lag"] == 0)
    assert state["status"]["lastError"] == ""


async def test_a_busy_subscriber_is_asked_again_when_it_said(bed: Bed) -> None:
    await bed.start()
    times: list[float] = []

    def answer(_name: str, before: int) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        return web.Response(status=503 if before == 0 else 200, headers={"retry-after": "1"})

    subscriber = await bed.subscriber(answer)
    await bed.subscribe("a", subscriber.url, delivery={"maxAttempts": 1})
    await bed.publish("1")
    await subscriber.until(2)
    assert times[1] - times[0] >= 0.99


async def test_410_removes_the_subscription(bed: Bed) -> None:
    await bed.start()
    subscriber = await bed.subscriber(lambda *_: web.Response(status=410))
    await bed.subscribe("a", subscriber.url)
    await bed.publish("1")
    await bed.eventually("/subscriptions", lambda s: s["subscriptions"] == [])
    assert (await bed.call("GET", "/subscriptions/a", status=404))["reason"] == "SubscriptionNotFound"


async def test_what_a_subscriber_never_takes_is_a_dead_letter_that_can_be_redriven(bed: Bed) -> None:
    await bed.start()
    broken = True
    subscriber = await bed.subscriber(
        lambda name, _: web.Response(
            status={"bad": 500, "ugly": 422}.get(name, 200) if broken else 200, text="I dislike it"
        )
    )
    await bed.subscribe("a", subscriber.url, delivery={"maxAttempts": 2})
    await bed.publish("bad", "ugly", "good")
    assert await subscriber.until(4) == ["bad", "bad", "ugly", "good"]
    page = await bed.call("GET", "/subscriptions/a/dead-letters")
    assert [(x["event"]["id"], x["attempts"]) for x in page["deadLetters"]] == [("bad", 2), ("ugly", 1)]
    assert page["deadLetters"][0]["cause"] == "status 500: I dislike it (attempt 2 of 2)"
    assert (await bed.call("POST", "/subscriptions/a/dead-letters/redrive", {"offsets": [1]}))["redriven"] == 1
    await subscriber.until(5)
    await bed.eventually("/subscriptions/a/dead-letters", lambda p: p["deadLetters"][0]["attempts"] == 3)
    broken = False
    assert (await bed.call("POST", "/subscriptions/a/dead-letters/redrive", status=202))["redriven"] == 2
    assert (await subscriber.until(7))[5:] == ["bad", "ugly"]
    await bed.eventually("/subscriptions/a/dead-letters", lambda p: p["deadLetters"] == [])


async def test_a_subscriber_that_hangs_holds_up_nobody(bed: Bed) -> None:
    await bed.start()
    release = asyncio.Event()

    async def hang(_name: str, _before: int) -> web.Response:
        await release.wait()
        return web.Response()

    slow, quick = await bed.subscriber(lambda n, b: hang(n, b)), await bed.subscriber()
    await bed.subscribe("slow", slow.url)
    await bed.subscribe("quick", quick.url)
    for number in range(50):
        await bed.publish(str(number))
    assert await quick.until(50) == [str(n) for n in range(50)]
    assert slow.got == ["0"]
    release.set()
    assert await slow.until(50) == [str(n) for n in range(50)]


async def test_subscriptions_positions_and_undelivered_events_survive_a_restart(bed: Bed) -> None:
    subscriber = await bed.subscriber()
    async with AsyncExitStack() as life:
        await bed.start(life)
        assert (await bed.subscribe("a", subscriber.url))["status"]["cursor"] == 0
        await bed.publish("1")
        await subscriber.until(1)
        await bed.eventually("/subscriptions/a", lambda s: s["status"]["lag"] == 0)
        await bed.subscribe("later", "http://127.0.0.1:1/in")
        await bed.publish("2")
        await subscriber.until(2)
    async with AsyncExitStack() as life:
        await bed.start(life)
        await bed.subscribe("later", subscriber.url)
        await bed.publish("3")
        assert sorted(await subscriber.until(5)) == ["1", "2", "2", "3", "3"], "at a graceful stop positions are exact"


async def test_put_is_idempotent_and_keeps_the_position(bed: Bed) -> None:
    await bed.start()
    subscriber = await bed.subscriber()
    await bed.publish("1", "2")
    await bed.call("PUT", "/subscriptions/a", {"sink": subscriber.url, "types": ["*"], "start": "earliest"}, status=201)
    await subscriber.until(2)
    await bed.eventually("/subscriptions/a", lambda s: s["status"]["lag"] == 0)
    await bed.call("PUT", "/subscriptions/a", {"sink": subscriber.url, "types": ["t"], "start": "earliest"}, status=200)
    await bed.publish("3")
    assert await subscriber.until(3) == ["1", "2", "3"]
    await bed.call("DELETE", "/subscriptions/a", status=204)
    await bed.call("DELETE", "/subscriptions/a", status=204)


async def test_a_subscription_ends_with_its_ttl_and_lives_while_renewed(bed: Bed) -> None:
    await bed.start()
    await bed.subscribe("short", "http://127.0.0.1:1/", ttlSeconds=1)
    await bed.subscribe("long", "http://127.0.0.1:1/", ttlSeconds=60)
    left = await bed.eventually("/subscriptions", lambda s: len(s["subscriptions"]) == 1)
    assert left["subscriptions"][0]["id"] == "long"


async def test_a_start_of_another_store_is_ignored_and_one_of_this_store_is_resumed(bed: Bed) -> None:
    await bed.start()
    subscriber = await bed.subscriber()
    await bed.publish("1", "2", "3")
    store = (await bed.call("GET", "/events"))["store"]
    other = await bed.subscribe("other", subscriber.url, start={"after": 1, "store": "another"})
    assert other["status"]["cursor"] == 3
    await bed.subscribe("same", subscriber.url, start={"after": 1, "store": store})
    assert await subscriber.until(2) == ["2", "3"]


async def test_retention_that_overtakes_a_subscription_is_told(bed: Bed) -> None:
    async with AsyncExitStack() as life:
        await bed.start(life)
        await bed.subscribe("a", "http://127.0.0.1:1/in")
        await bed.publish(*(str(n) for n in range(10)))
    async with AsyncExitStack() as life:
        await bed.start(life, NEXUS_EVENTS_KEEP_EVENTS="3")
        await bed.eventually("/events", lambda page: page["oldest"] == 8)
    await bed.start()
    subscriber = await bed.subscriber()
    await bed.subscribe("a", subscriber.url)
    assert await subscriber.until(3) == ["7", "8", "9"]
    assert (await bed.call("GET", "/subscriptions/a"))["status"]["skipped"] == 7
    assert (await bed.call("GET", "/events?after=2"))["truncated"] is True


async def test_a_full_store_answers_503_and_acknowledges_nothing(bed: Bed) -> None:
    await bed.start(NEXUS_EVENTS_MAX_STORE_BYTES="200Ki")
    accepted, number = 0, 0
    while True:
        event = {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t", "data": "x" * 10_000}
        async with bed.http.post(f"{bed.url}/events", json=event, headers=HEADERS) as reply:
            number += 1
            if reply.status == 202:
                accepted += 1
                continue
            assert reply.status == 503
            assert reply.headers["retry-after"]
            assert reply.content_type == "application/problem+json"
            assert (await reply.json())["reason"] == "StoreUnavailable"
            break
    assert len((await bed.call("GET", "/events?limit=1000"))["events"]) == accepted > 3


async def test_a_long_poll_ends_with_the_event_or_the_time(bed: Bed) -> None:
    await bed.start()
    waiting = asyncio.create_task(bed.call("GET", "/events?wait=30&type=t"))
    await bed.publish("other", event_type="x")
    await bed.publish("1")
    page = await asyncio.wait_for(waiting, 5)
    assert [(e["event"]["id"], e["offset"]) for e in page["events"]] == [("1", 2)]
    assert (await bed.call("GET", "/events?wait=1&after=2"))["events"] == []


@pytest.mark.parametrize(
    "query", ["after=-1", "limit=0", "limit=1001", "limit=x", "wait=61", "type=a*b", "after=9999999999999999999999"]
)
async def test_a_wrong_query_is_explained(bed: Bed, query: str) -> None:
    await bed.start()
    assert (await bed.call("GET", f"/events?{query}", status=400))["reason"] == "QueryInvalid"


async def test_a_name_that_leads_to_a_denied_network_is_not_connected_to(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        return real("169.254.169.254" if host == "innocent.example" else host, port, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # DNS is the attacker's here
    await bed.start()
    await bed.subscribe("a", "http://innocent.example/latest")
    await bed.publish("1")
    state = await bed.eventually("/subscriptions/a", lambda s: s["status"]["lastError"] != "")
    assert "network that sinks may not lead to" in state["status"]["lastError"]


async def test_a_damaged_event_is_a_dead_letter_and_holds_up_nobody(bed: Bed) -> None:
    async with AsyncExitStack() as first:
        await bed.start(first)
        await bed.publish("1", "2")
    with sqlite3.connect(bed.directory / "events.db") as connection:
        connection.execute("UPDATE events SET body = CAST(replace(body, '\"id\"', '\"i}\"}') AS BLOB) WHERE offset = 1")
    connection.close()
    await bed.start()
    subscriber = await bed.subscriber()
    await bed.subscribe("a", subscriber.url, start="earliest")
    assert await subscriber.until(1) == ["2"]
    (letter,) = (await bed.call("GET", "/subscriptions/a/dead-letters"))["deadLetters"]
    assert "damaged in the store" in letter["cause"]
    events = (await bed.call("GET", "/events"))["events"]
    assert [(e["event"] or {}).get("id") for e in events] == [None, "2"]
    assert events[0]["damaged"]


async def test_metrics_count(bed: Bed) -> None:
    await bed.start()
    subscriber = await bed.subscriber()
    await bed.subscribe("a", subscriber.url)
    await bed.publish("1", "1")
    await subscriber.until(1)
    async with bed.http.get(f"{bed.url}/metrics") as reply:
        text = await reply.text()
    assert 'nexus_events_accepted_total{result="new"} 1.0' in text
    assert 'nexus_events_accepted_total{result="duplicate"} 1.0' in text
    assert "nexus_events_head 1.0" in text
    async with bed.http.get(f"{bed.url}/openapi.json") as reply:
        assert "publishEvents" in await reply.text()
