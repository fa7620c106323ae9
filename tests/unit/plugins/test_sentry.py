"""sentry: what is reported, what never leaves, and a receiver that asks to wait."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from nexus_core.hooks import Called, CallFailed, Done, RequestHead
from nexus_plugin_sentry import Sentry
from nexus_plugin_sentry.events import is_secret, scrubbed_query
from nexus_plugin_sentry.limits import Allowance, Pauses
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import Call, FakeContext, PluginKit
from sentry_sdk.envelope import Envelope

KEY = "0123456789abcdef0123456789abcdef"
DSN = f"https://{KEY}@sentry.example/base/42"
REQUEST = RequestHead(
    "POST", "/orders/7", "token=t0p&page=2", "shop",
    (("user-agent", "curl"), ("authorization", "Bearer t0p"), ("cookie", "a=t0p"), ("x-api-key", "t0p"), ("x-note", "kept back")),
    "192.0.2.7", "shop/orders",
)  # fmt: skip
FAILED = Done(
    503,
    "UpstreamUnavailable",
    "shop/orders",
    "shop/orders",
    "10.0.0.7:80",
    2,
    0.25,
    10,
    20,
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "r1",
    1000.0,
)


class Receiver:
    """Answers as Sentry does; what it got is in `events`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.auth: list[str] = []
        self.answer: tuple[int, dict[str, str]] = (200, {})

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has unpacked it
        envelope = Envelope.deserialize(body)
        event = envelope.get_event()
        assert event is not None
        self.events.append(json.loads(json.dumps(event)))
        self.paths.append(request.path)
        self.auth.append(request.headers["x-sentry-auth"])
        assert request.headers["content-type"] == "application/x-sentry-envelope"
        return web.json_response({"id": "1"}, status=self.answer[0], headers=self.answer[1])


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str, FakeContext]]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with ClientSession() as session:

        async def answer(call: Call) -> Called:
            async with session.request(call.method, call.url, headers=dict(call.headers), data=call.body) as response:
                headers = tuple((name.lower(), value) for name, value in response.headers.items())
                return Called(response.status, headers, await response.read())

        context = FakeContext(plugin="shop/sentry", version="1.0.0", hosts=frozenset({"127.0.0.1"}), answer=answer)
        yield receiver, f"http://{KEY}@127.0.0.1:{port}/base/42", context
    await runner.cleanup()


async def test_a_failed_request_arrives_without_secrets() -> None:
    async with receiving() as (receiver, dsn, context):
        config = {
            "dsn": dsn,
            "environment": "test",
            "tags": {"team": "a"},
            "headers": ["User-Agent", "Authorization", "cookie"],
        }
        async with PluginKit(Sentry, config, context=context) as kit:
            await kit.done(REQUEST, Done(200))
            await kit.done(REQUEST, FAILED)
            await context.settle()
    (event,) = receiver.events
    assert receiver.paths == ["/base/api/42/envelope/"]
    assert receiver.auth[0].startswith(f"Sentry sentry_key={KEY}, sentry_version=7")
    assert event["message"]["formatted"] == "POST shop/orders: UpstreamUnavailable"
    assert event["fingerprint"] == ["POST", "shop/orders", "503", "UpstreamUnavailable"]
    assert (event["level"], event["environment"], event["server_name"]) == ("error", "test", "nexus-gateway")
    assert event["tags"] == {
        "status": "503", "reason": "UpstreamUnavailable", "route": "shop/orders", "upstream": "shop/orders",
            "team": "a", "plugin": "shop/sentry",
    }  # fmt: skip
    assert event["request"] == {"method": "POST", "url": "//shop/orders/7", "headers": {"user-agent": "curl"}}
    assert event["contexts"]["trace"]["trace_id"] == FAILED.trace_id
    assert event["contexts"]["exchange"]["request_id"] == "r1"
    assert "t0p" not in json.dumps(event)
    assert "user" not in event
    assert not event.get("breadcrumbs")
    assert not event.get("modules")


async def test_query_and_client_only_when_asked() -> None:
    config = {"sendQuery": True, "sendClientIp": True}
    async with (
        receiving() as (receiver, dsn, context),
        PluginKit(Sentry, {"dsn": dsn, **config}, context=context) as kit,
    ):
        await kit.done(REQUEST, FAILED)
        await context.settle()
    assert receiver.events[0]["request"]["query_string"] == "token=%5BFiltered%5D&page=2"
    assert receiver.events[0]["user"] == {"ip_address": "192.0.2.7"}


@pytest.mark.parametrize(
    ("config", "done", "reported"),
    [
        ({}, Done(500), True),
        ({}, Done(499, "ClientLeft"), False),
        ({}, Done(404, "RouteNotFound"), False),
        ({"reasons": ["RouteNotFound"]}, Done(404, "RouteNotFound"), True),
        ({"ignoreReasons": ["UpstreamUnavailable"]}, FAILED, False),
        ({"statuses": ["504", "4XX"]}, Done(500), False),
        ({"statuses": ["504", "4XX"]}, Done(504), True),
        ({"statuses": ["504", "4XX"]}, Done(418), True),
        ({"sampleRate": 0.5}, Done(500), True),
        ({"sampleRate": 0.4}, Done(500), False),
        ({"sampleRate": 0}, Done(500), False),
    ],
)
async def test_what_is_reported(config: dict[str, Any], done: Done, reported: bool) -> None:
    context = FakeContext(answer=lambda call: Called(200))
    async with PluginKit(Sentry, {"dsn": DSN, **config}, context=context) as kit:
        kit.plugin.chance = lambda: 0.4  # type: ignore[attr-defined]
        await kit.done(REQUEST, done)
        await context.settle()
    assert len(context.calls) == int(reported)


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"Retry-After": "30"}, 30),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 60),
        (429, {}, 60),
        (200, {"X-Sentry-Rate-Limits": "45:error;transaction:organization, 10::key"}, 45),
        (429, {"X-Sentry-Rate-Limits": "45:transaction:organization", "Retry-After": "45"}, 0),
        (503, {"Retry-After": "30"}, 0),
    ],
)
async def test_a_receiver_that_asks_to_wait_is_left_alone(status: int, headers: dict[str, str], wait_s: float) -> None:
    async with receiving() as (receiver, dsn, context):
        receiver.answer = (status, headers)
        async with PluginKit(Sentry, {"dsn": dsn}, context=context) as kit:
            now = 1000.0
            kit.plugin.clock = lambda: now  # type: ignore[attr-defined]
            await kit.done(REQUEST, FAILED)
            await kit.done(REQUEST, FAILED)
            await context.settle()
            before = len(receiver.events)
            assert before == (1 if wait_s else 2), "what waited when it said so is dropped"
            now += wait_s - 0.5 if wait_s else 0
            await kit.done(REQUEST, FAILED)
            await context.settle()
            assert len(receiver.events) == before + (0 if wait_s else 1)
            receiver.answer = (200, {})
            now += 1
            await kit.done(REQUEST, FAILED)
            await context.settle()
            assert len(receiver.events) == before + (1 if wait_s else 2)


async def test_what_is_too_much_is_dropped_and_trouble_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    def answer(call: Call) -> Called:
        raise CallFailed("sentry.example did not answer")

    context = FakeContext(answer=answer)
    async with PluginKit(Sentry, {"dsn": DSN, "maxQueue": 3}, context=context) as kit:
        now = 0.0
        kit.plugin.clock = lambda: now  # type: ignore[attr-defined]
        for _ in range(10):
            await kit.done(REQUEST, FAILED)
        # The kit lets the sender run between calls; the queue alone is asked here.
        await context.settle()
        assert len([each for each in caplog.messages if "a report is lost" in each]) == 1
        now = 61.0
        await kit.done(REQUEST, FAILED)
        await context.settle()
        assert len([each for each in caplog.messages if "a report is lost" in each]) == 2
    assert KEY not in caplog.text


async def test_the_queue_keeps_the_first_of_a_row() -> None:
    context = FakeContext(answer=lambda call: Called(200))
    async with PluginKit(Sentry, {"dsn": DSN, "maxQueue": 2}, context=context) as kit:
        for status in (500, 501, 502, 503):
            kit.plugin.on_done(REQUEST, Done(status))
        await context.settle()
    sent = [Envelope.deserialize(gzip.decompress(call.body)).get_event() for call in context.calls]
    assert [(event or {})["tags"]["status"] for event in sent] == ["500", "501"]


async def test_what_waits_is_sent_at_the_end() -> None:
    context = FakeContext(answer=lambda call: Called(200))
    kit = PluginKit(Sentry, {"dsn": DSN}, context=context)
    await kit.start()
    kit.plugin.on_done(REQUEST, FAILED)
    await kit.stop()
    assert len(context.calls) == 1


def test_an_allowance_fills_again() -> None:
    allowance = Allowance(60)
    assert sum(allowance.take(0.0) for _ in range(100)) == 60
    assert not allowance.take(0.5)
    assert allowance.take(1.5)
    assert sum(allowance.take(1000.0) for _ in range(100)) == 60


def test_pauses_never_become_shorter_and_are_bounded() -> None:
    pauses = Pauses()
    pauses.note(429, {"retry-after": "100"}, 0.0)
    pauses.note(429, {"retry-after": "1"}, 0.0)
    assert not pauses.is_open(99.0)
    pauses.note(429, {"x-sentry-rate-limits": "inf::,nan:error,-5:error,:,::::"}, 0.0)
    assert pauses.is_open(24 * 3600.0)


@pytest.mark.parametrize(
    "name", ["Authorization", "x-csrf-token", "api_key", "APIKEY", "session-id", "sig-signature", "passwd", "password"]
)
def test_secret_names(name: str) -> None:
    assert is_secret(name)
    assert scrubbed_query(f"{name}=x") == f"{name}=%5BFiltered%5D"


@pytest.mark.parametrize(
    "dsn", ["https://sentry.example/1", "https://key@sentry.example/x", "ftp://key@h/1", "https://k3y@:99999999/1"]
)
def test_a_wrong_dsn_is_told_without_its_key(dsn: str) -> None:
    with pytest.raises(PluginConfigError, match=r"config\.dsn") as told:
        PluginKit(Sentry, {"dsn": dsn})
    assert "k3y" not in str(told.value)
