import asyncio
import time
from typing import Any

import pytest
from nexus_sdk.plugin import Plugin, Reply, RequestHead, ResponseHead
from nexus_sdk.testing import PluginContractError, PluginKit

HEAD = RequestHead("GET", "/orders/7", host="shop.example", headers=(("accept", "*/*"),))


class Stamp(Plugin):
    """What a plugin looks like: a sync hook, an async one, start and stop."""

    started = stopped = False

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.stopped = True

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        if request.header("x-key") == "wrong":
            return Reply(401, body=b"no")
        return request.with_header(self.config["header"], "1")

    async def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        return response.with_header(self.config["header"], request.header(self.config["header"]) or "")


async def test_drives_a_plugin_through_its_life() -> None:
    async with PluginKit(Stamp, {"header": "x-stamp"}) as kit:
        passed = await kit.request(HEAD)
        assert isinstance(passed, RequestHead)
        assert passed.header("x-stamp") == "1"
        answer = await kit.exchange(HEAD, lambda head: ResponseHead(201, (("x-saw", head.header("x-stamp") or ""),)))
        assert answer == ResponseHead(201, (("x-saw", "1"), ("x-stamp", "1")))
        assert await kit.exchange(HEAD.with_header("x-key", "wrong")) == Reply(401, body=b"no")
    assert isinstance(kit.plugin, Stamp)
    assert kit.plugin.started
    assert kit.plugin.stopped
    assert [t.hook for t in kit.timings] == ["start", "on_request", "on_request", "on_response", "on_request", "stop"]


async def test_a_plugin_without_hooks_changes_nothing() -> None:
    async with PluginKit(Plugin) as kit:
        assert await kit.request(HEAD) == HEAD
        assert await kit.response(HEAD, ResponseHead(204)) == ResponseHead(204)


async def _late(_: Any) -> Any:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("hook", "what"),
    [
        (lambda _: None, "returned NoneType"),
        (lambda h: ResponseHead(200), "returned ResponseHead"),
        (lambda h: RequestHead("GET", "orders"), "the path 'orders'"),
        (lambda h: RequestHead("GET", "/", headers=[("a", "b")]), "headers as list"),
        (lambda h: RequestHead("GET", "/", headers=(("A", "b"),)), "header name 'A'"),
        (lambda h: RequestHead("GET", "/", headers=(("a", "b\r\nc: d"),)), "line break in header 'a'"),
        (lambda h: RequestHead("GET", "/", headers=(("a", 1),)), "header ('a', 1)"),
        (lambda h: Reply(99), "status 99"),
        (lambda h: Reply(200, body="text"), "body of str"),
        (_late, "took longer than 0.05 s"),
        (lambda h: time.sleep(0.06) or h, "took longer than 0.05 s"),
    ],
)
async def test_a_broken_contract_is_named(hook: Any, what: str) -> None:
    broken = type("Broken", (Plugin,), {"on_request": lambda self, head: hook(head)})
    async with PluginKit(broken, timeout_s=0.05) as kit:
        with pytest.raises(PluginContractError) as caught:
            await kit.request(HEAD)
    assert str(caught.value).startswith("Broken.on_request")
    assert what in str(caught.value)


async def test_what_a_hook_raises_comes_out() -> None:
    class Failing(Plugin):
        def on_request(self, request: RequestHead) -> RequestHead:
            raise TimeoutError("its own")

    async with PluginKit(Failing) as kit:
        with pytest.raises(TimeoutError, match="its own"):
            await kit.request(HEAD)
