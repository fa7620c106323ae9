"""Every hook through the kit: what a good one gives, and what the kit says of a bad one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from nexus_sdk.plugin import (
    Called,
    CallFailed,
    Close,
    Delivery,
    Done,
    Endpoint,
    Event,
    Headers,
    Manifest,
    Message,
    NotGranted,
    Operation,
    Plugin,
    Refusal,
    Reply,
    RequestHead,
    Resolved,
    ResponseHead,
    RouteChoice,
    Socket,
)
from nexus_sdk.testing import Call, FakeContext, PluginContractError, PluginKit

HEAD = RequestHead("POST", "/orders", host="shop.example", headers=(("accept", "*/*"),))
SOCKET = Socket("1", HEAD)
EVENT = Event("1", "/shop", "order.placed", {"subject": "7"}, b"{}")
DELIVERY = Delivery("mail", "http://mail.example/", 3, 503, "it answered 503", 0.2)
OPERATION = Operation("query", "{ orders { id } }", fields=("orders",), depth=2)
MANIFEST = Manifest("NexusService", "shop", "orders", {"type": "http"})


class Upper:
    """A stream that keeps the last byte back, so that `finish` has something to say."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        whole = self._kept + data
        self._kept = whole[-1:]
        return whole[:-1].upper()

    def finish(self) -> bytes:
        return self._kept.upper() + b"!"


class Everything(Plugin):
    """Overrides every hook."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.seen: list[object] = []

    async def start(self) -> None:
        self.seen.append("start")

    async def stop(self) -> None:
        self.seen.append("stop")

    def on_config(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        return request.with_header("x-request", "1")

    def wants_request_body(self, request: RequestHead) -> bool:
        return request.header("x-skip") is None

    async def on_request_body(self, request: RequestHead, body: bytes) -> bytes | tuple[RequestHead, bytes] | Reply:
        return Reply(422) if body == b"bad" else (request.with_header("x-size", str(len(body))), body[::-1])

    def on_request_stream(self, request: RequestHead) -> Upper:
        return Upper()

    def on_route(self, request: RequestHead, choice: RouteChoice) -> RouteChoice | Reply:
        return choice.with_upstream("shop/new")

    def on_endpoint(self, request: RequestHead, endpoint: Endpoint) -> Headers:
        return (("x-endpoint", endpoint.authority),)

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead | Reply:
        return response.with_header("x-response", "1")

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        return response.status == 200

    def on_response_body(self, request: RequestHead, response: ResponseHead, body: bytes) -> bytes | Reply:
        return body + b"+"

    def on_response_stream(self, request: RequestHead, response: ResponseHead) -> Upper:
        return Upper()

    async def on_done(self, request: RequestHead, done: Done) -> None:
        self.seen.append(done.status)

    def on_client_message(self, socket: Socket, message: Message) -> Message | Close | None:
        return None if message.data == "drop" else Message("from " + socket.id)

    async def on_server_message(self, socket: Socket, message: Message) -> Message | Close | None:
        return Close(4000, "enough")

    def on_event_accepted(self, event: Event) -> Event | Refusal:
        return (
            event.with_attribute("seen", True) if event.data else Refusal("NoData", "An event needs data; send some.")
        )

    def on_event_delivered(self, event: Event, delivery: Delivery) -> None:
        self.seen.append(delivery.attempts)

    async def on_event_dead_lettered(self, event: Event, delivery: Delivery) -> None:
        self.seen.append(delivery.error)

    def on_operation_parsed(self, operation: Operation) -> Operation | Refusal:
        return operation.with_variables({"first": 5})

    def on_operation_resolved(self, operation: Operation, result: Resolved) -> Resolved:
        return Resolved({"masked": True})

    def on_manifest(self, manifest: Manifest) -> Manifest | Refusal:
        return manifest.with_spec({**manifest.spec, "policy": {}})


async def test_a_plugin_without_on_config_is_not_given_another_configuration() -> None:
    class Plain(Plugin):
        pass

    async with PluginKit(Plain) as kit:
        with pytest.raises(PluginContractError, match="make another kit with that configuration, or write the hook"):
            await kit.configure({"a": 1})


async def test_on_config_may_call_that_of_its_base() -> None:
    class Calls(Plugin):
        def on_config(self, config: Mapping[str, Any]) -> Awaitable[None] | None:
            self.config = config
            return super().on_config(config)

    async with PluginKit(Calls) as kit:
        await kit.configure({"a": 1})
        assert kit.plugin.config == {"a": 1}


async def test_every_hook_runs() -> None:
    async with PluginKit(Everything) as kit:
        seen = kit.plugin.seen  # type: ignore[attr-defined]
        await kit.configure({"a": 1})
        assert kit.plugin.config == {"a": 1}
        changed = await kit.request_body(HEAD, b"abc")
        assert isinstance(changed, tuple)
        assert (changed[0].header("x-size"), changed[1]) == ("3", b"cba")
        assert await kit.request_body(HEAD.with_header("x-skip", "1"), b"abc") == b"abc"
        assert await kit.request_stream(HEAD, (b"ab", b"", b"c")) == b"ABC!"
        chosen = await kit.route(HEAD, RouteChoice("r", "r/0", "shop/old", ("shop/old", "shop/new")))
        assert isinstance(chosen, RouteChoice)
        assert chosen.upstream == "shop/new"
        assert await kit.endpoint(HEAD, Endpoint("10.0.0.1:80", "shop/new")) == (("x-endpoint", "10.0.0.1:80"),)
        assert await kit.response_body(HEAD, ResponseHead(200), b"x") == b"x+"
        assert await kit.response_body(HEAD, ResponseHead(404), b"x") == b"x"
        assert await kit.response_stream(HEAD, ResponseHead(200), (b"x",)) == b"X!"
        await kit.done(HEAD, Done(204))
        assert await kit.client_message(SOCKET, Message("hi")) == Message("from 1")
        assert await kit.client_message(SOCKET, Message("drop")) is None
        assert await kit.server_message(SOCKET, Message(b"hi")) == Close(4000, "enough")
        accepted = await kit.event_accepted(EVENT)
        assert isinstance(accepted, Event)
        assert accepted.attributes == {"subject": "7", "seen": True}
        assert isinstance(await kit.event_accepted(EVENT.with_data(None)), Refusal)
        await kit.event_delivered(EVENT, DELIVERY)
        await kit.event_dead_lettered(EVENT, DELIVERY)
        operation = await kit.operation_parsed(OPERATION)
        assert isinstance(operation, Operation)
        assert operation.variables == {"first": 5}
        assert (await kit.operation_resolved(OPERATION, Resolved({}))).data == {"masked": True}
        assert (await kit.manifest(MANIFEST)).spec == {"type": "http", "policy": {}}  # type: ignore[union-attr]
    assert seen == ["start", 204, 3, "it answered 503", "stop"]


async def test_a_whole_request_passes_through_all_of_them() -> None:
    async with PluginKit(Everything) as kit:
        done = await kit.roundtrip(HEAD, b"abc", lambda head, body: (ResponseHead(200), body))
    assert done.request is not None
    assert (done.request.header("x-request"), done.request_body) == ("1", b"CBA!")
    assert (done.status, done.header("x-response"), done.body) == (200, "1", b"CBA!+!")


async def test_a_reply_ends_a_whole_request() -> None:
    async with PluginKit(Everything) as kit:
        done = await kit.roundtrip(HEAD, b"bad")
    assert (done.status, done.request) == (422, None)


Ask = Callable[[PluginKit], Awaitable[object]]


@pytest.mark.parametrize(
    ("hook", "result", "ask", "said"),
    [
        ("on_request_body", "text", lambda k: k.request_body(HEAD, b""), "returned str; return bytes"),
        ("on_request_body", ("x", b""), lambda k: k.request_body(HEAD, b""), "returned no head"),
        ("on_route", RouteChoice("r", "0", "b"), lambda k: k.route(HEAD, RouteChoice("r", "0", "a", ("a",))), "choose one of a"),
        ("on_endpoint", [("x", "1")], lambda k: k.endpoint(HEAD, Endpoint("a:1", "u")), "returned headers as list"),
        ("on_response_body", None, lambda k: k.response_body(HEAD, ResponseHead(200), b""), "returned NoneType"),
        ("on_done", 1, lambda k: k.done(HEAD, Done(200)), "returned int; return None"),
        ("on_client_message", "hi", lambda k: k.client_message(SOCKET, Message("")), "return a Message, None or Close"),
        ("on_server_message", Close(1006), lambda k: k.server_message(SOCKET, Message("")), "closed with 1006"),
        ("on_server_message", Close(1008, "x" * 124), lambda k: k.server_message(SOCKET, Message("")), "too long"),
        ("on_event_accepted", Refusal("", ""), lambda k: k.event_accepted(EVENT), "refused without saying why"),
        ("on_event_delivered", 1, lambda k: k.event_delivered(EVENT, DELIVERY), "return None"),
        ("on_event_dead_lettered", 1, lambda k: k.event_dead_lettered(EVENT, DELIVERY), "return None"),
        ("on_operation_parsed", None, lambda k: k.operation_parsed(OPERATION), "return Operation or Refusal"),
        ("on_operation_resolved", {}, lambda k: k.operation_resolved(OPERATION, Resolved({})), "return Resolved"),
        ("on_manifest", {}, lambda k: k.manifest(MANIFEST), "return Manifest or Refusal"),
        ("on_config", 1, lambda k: k.configure({}), "return None"),
    ],
)  # fmt: skip
async def test_a_wrong_result_is_told(hook: str, result: object, ask: Ask, said: str) -> None:
    kind = type("Wrong", (Plugin,), {hook: lambda *_: result})
    with pytest.raises(PluginContractError, match=said) as told:
        await ask(PluginKit(kind))
    assert str(told.value).startswith(f"Wrong.{hook} ")


async def test_an_impure_manifest_hook_is_told() -> None:
    class Impure(Plugin):
        n = 0

        def on_manifest(self, manifest: Manifest) -> Manifest | Refusal:
            self.n += 1
            return manifest.with_spec({"n": self.n})

    with pytest.raises(PluginContractError, match="make it pure"):
        await PluginKit(Impure).manifest(MANIFEST)


async def test_a_coroutine_where_none_may_be_is_told() -> None:
    class Waits(Plugin):
        async def on_endpoint(self, request: RequestHead, endpoint: Endpoint) -> Headers:  # type: ignore[override]
            return ()

    with pytest.raises(PluginContractError, match="is a coroutine; make it a plain function"):
        await PluginKit(Waits).endpoint(HEAD, Endpoint("a:1", "u"))


def test_a_misspelt_hook_is_told() -> None:
    with pytest.raises(PluginContractError, match="on_reqest is no hook; did you mean on_request"):
        PluginKit(type("Misspelt", (Plugin,), {"on_reqest": lambda *_: None}))


class Calls(Plugin):
    """Uses its context."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.key = self.context.secrets["key"]

    async def on_request(self, request: RequestHead) -> RequestHead:
        called = await self.context.call(
            "GET", self.config["url"], headers=(("authorization", self.key),), timeout_s=0.1
        )
        return request.with_header("x-called", str(called.status))


async def test_calls_are_answered_by_the_test_and_kept() -> None:
    context = FakeContext(secrets={"key": "s3cret"}, hosts=frozenset({"api.example"}), answer=lambda _: Called(204))
    async with PluginKit(Calls, {"url": "https://api.example/x"}, context=context) as kit:
        head = await kit.request(HEAD)
    assert isinstance(head, RequestHead)
    assert head.header("x-called") == "204"
    assert [(call.url, call.header("authorization")) for call in context.calls] == [("https://api.example/x", "s3cret")]


async def test_calls_beyond_what_is_granted_are_refused() -> None:
    context = FakeContext(secrets={"key": ""}, hosts=frozenset({"api.example"}), services=frozenset({"shop/orders"}))
    for url in ("https://other.example/", "nexus://shop/users/1"):
        kit = PluginKit(Calls, {"url": url}, context=context)
        with pytest.raises(NotGranted, match=r"permissions\.(network|services) lacks it"):
            await kit.request(HEAD)


async def test_calls_without_an_answer_fail_as_to_a_host_that_is_down() -> None:
    async def never(_: Call) -> Called:
        await asyncio.Event().wait()
        raise AssertionError

    for answer in (None, never):
        kit = PluginKit(Calls, {"url": "https://a.example/"}, context=FakeContext(secrets={"key": ""}, answer=answer))
        with pytest.raises(CallFailed, match="did not answer"):
            await kit.request(HEAD)


async def test_background_work_ends_with_the_plugin() -> None:
    ended = []

    class Works(Plugin):
        async def start(self) -> None:
            async def work() -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append(True)

            self.context.spawn(work(), "work")
            await asyncio.sleep(0)

    async with PluginKit(Works):
        assert not ended
    assert ended == [True]


class Notes(Plugin):
    """Keeps something of a request for its later hooks."""

    def on_request(self, request: RequestHead) -> RequestHead:
        request.notes["demo"] = "kept"
        return request.with_header("x-a", "1")

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        return response.with_header("x-note", request.notes["demo"])


async def test_notes_of_a_request_reach_its_later_hooks_and_no_other_request() -> None:
    async with PluginKit(Notes) as kit:
        done = await kit.roundtrip(RequestHead("GET", "/"))
        assert done.header("x-note") == "kept"
        with pytest.raises(KeyError):
            await kit.response(RequestHead("GET", "/"), ResponseHead(200))
