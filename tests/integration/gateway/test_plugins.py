"""Plugins in a running gateway: installed, changed, refused and removed without a restart."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import parse_index, signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import (
    CircuitBreaker,
    Fallback,
    Permissions,
    PluginInstance,
    PluginReport,
    Release,
    Retry,
    Timeouts,
)
from nexus_core.snapshot.plugins import Lacking
from nexus_gateway.testing import Harness, route, rule, snapshot, until, upstream
from nexus_marketplace.publishing import public_key
from nexus_marketplace.sources.local import Bundled

KEY = Ed25519PrivateKey.generate()
CODE = """
from nexus_sdk.plugin import Plugin
VERSION = "{version}"
LOG = []
class Demo(Plugin):
    async def start(self):
        {start}
    async def stop(self):
        with open(self.config["log"], "a") as log:
            log.write("stopped " + VERSION + "\\n")
    {kind}def on_request(self, request):
        {request}
    def on_response(self, request, response):
        return response.with_header("x-demo", VERSION)
"""


class Market:
    """A publisher and the server of its artefacts."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.port = 0

    async def open(self) -> None:
        self.port = await self.harness.upstreams.start(self.serve)

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        data = self.files.get(request.path)
        return web.Response(status=404) if data is None else web.Response(body=io.BytesIO(data))

    def release(
        self, version: str = "1.0", *, start: str = "pass", request: str = "return request", kind: str = "", data: bytes | None = None,
        **fields: Any,
    ) -> Release:  # fmt: skip
        code = CODE.format(version=version, start=start, request=request, kind=kind).encode()
        data = data if data is not None else build_zip({"demo/__init__.py": b"", "demo/plugin.py": code})
        name = f"/demo-{version}-{hashlib.sha256(data).hexdigest()[:8]}.zip"
        self.files[name] = data
        values: dict[str, Any] = {
            "name": "demo", "version": version, "api": ">=1,<2", "package": "demo", "entry_point": "demo.plugin:Demo",
            "sha256": hashlib.sha256(data).hexdigest(), "url": name[1:], "publisher": "me",
            "config_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
            "permissions": Permissions(modules=("os", "sys")), **fields,
        }  # fmt: skip
        unsigned = Release(**values)
        signature = base64.b64encode(KEY.sign(signed_bytes(unsigned))).decode()
        return msgspec.structs.replace(unsigned, signature=signature)

    def instance(self, release: Release, *, config: dict[str, Any] | None = None, **fields: Any) -> PluginInstance:
        settings = {"log": str(self.harness.tmp_path / "log"), **(config or {})}
        values = {"public_key": public_key(KEY), "base_url": f"http://127.0.0.1:{self.port}/index.json",
                  "granted": release.permissions, **fields}  # fmt: skip
        return PluginInstance(
            id="shop/demo",
            source="NexusPlugin shop/demo",
            release=release,
            config=msgspec.json.encode(settings).decode(),
            **values,
        )


@pytest.fixture
async def market(harness: Harness) -> Market:
    made = Market(harness)
    await made.open()
    return made


async def echo(request: web.Request) -> web.Response:
    return web.json_response({name.lower(): value for name, value in request.headers.items()})


async def publish(harness: Harness, *instances: PluginInstance) -> None:
    if harness.gateway is None:
        harness.backend = await harness.upstreams.start(echo)  # type: ignore[attr-defined]
        await harness.start()
    rules = rule("shop/orders", plugins=tuple(each.id for each in instances))
    await harness.publish(snapshot(route(rules), upstream(harness.backend), plugins=instances))  # type: ignore[attr-defined]


async def ask(harness: Harness, **headers: str) -> tuple[int, dict[str, Any], Any]:
    async with harness.client.get(
        harness.url("/"), headers={name.replace("_", "-"): value for name, value in headers.items()}
    ) as response:
        return response.status, await response.json(content_type=None), response.headers


def report(harness: Harness) -> Any:
    return harness.source.acks[-1].plugins["shop/demo"]


async def stopped(harness: Harness, *versions: str) -> None:
    """Return once just these versions have been stopped, in this order."""
    log = harness.tmp_path / "log"
    wanted = [f"stopped {version}" for version in versions]
    await until(lambda: log.exists() and log.read_text().split("\n")[:-1] == wanted)


async def test_a_plugin_is_installed_updated_and_removed_without_a_restart(harness: Harness, market: Market) -> None:
    await publish(harness, market.instance(market.release("1.0")))
    assert (await ask(harness))[2]["x-demo"] == "1.0"
    assert (report(harness).state, report(harness).version) == ("loaded", "1.0")
    await publish(harness, market.instance(market.release("2.0")))
    assert (await ask(harness))[2]["x-demo"] == "2.0"
    await stopped(harness, "1.0")
    await publish(harness)
    assert "x-demo" not in (await ask(harness))[2]
    await stopped(harness, "1.0", "2.0")


async def test_an_unchanged_plugin_keeps_its_instance_over_swaps(harness: Harness, market: Market) -> None:
    release = market.release()
    await publish(harness, market.instance(release))
    assert harness.gateway is not None
    before = harness.gateway.runtime.slots["shop/demo"].plugin
    await publish(harness, market.instance(release, timeout_s=2.0, failure_policy="closed"))
    assert harness.gateway.runtime.slots["shop/demo"].plugin is before
    assert not (harness.tmp_path / "log").exists()
    await publish(harness, market.instance(release, config={"n": 2}))
    assert harness.gateway.runtime.slots["shop/demo"].plugin is not before


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "other digest": ({"sha256": "0" * 64}, "PluginDigestMismatch"),
    "other API": ({"api": ">=9"}, "PluginIncompatible"),
    "not a zip": ({"data": b"no zip"}, "PluginArtefactInvalid"),
    "no such class": ({"entry_point": "demo.plugin:Missing"}, "PluginLoadFailed"),
    "fails in start": ({"start": "raise RuntimeError('x')"}, "PluginStartFailed"),
    "not there": ({"url": "missing.zip"}, "PluginFetchFailed"),
    "other scheme": ({"url": "file:///etc/passwd"}, "PluginFetchFailed"),
    "config": ({"config_schema": {"properties": {"n": {"type": "string"}}, "required": ["n"]}}, "PluginConfigInvalid"),
    "remote schema": ({"config_schema": {"$ref": "http://127.0.0.1:1/schema.json"}}, "PluginConfigInvalid"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_version_leaves_the_previous_one_running(harness: Harness, market: Market, name: str) -> None:
    changes, reason = BROKEN[name]
    await publish(harness, market.instance(market.release("1.0")))
    await publish(harness, market.instance(market.release("2.0", **changes)))
    assert (report(harness).state, report(harness).version, report(harness).reason) == ("previous", "1.0", reason)
    assert report(harness).message
    assert (await ask(harness))[2]["x-demo"] == "1.0"
    assert (await harness.ask("/plugins"))["plugins"][0]["reason"] == reason


@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
async def test_a_plugin_that_never_ran_passes_or_refuses_as_its_policy_says(
    harness: Harness, market: Market, policy: str, status: int
) -> None:
    forged = msgspec.structs.replace(market.release("1.0"), summary="changed after signing")
    await publish(harness, market.instance(forged, failure_policy=policy))
    assert (report(harness).state, report(harness).reason) == ("failed", "PluginSignatureInvalid")
    answer = await ask(harness)
    assert answer[0] == status
    assert market.asked == [], "nothing unsigned is even fetched"
    if status == 503:
        assert answer[1]["reason"] == "PluginUnavailable"


def without_release(**fields: Any) -> PluginInstance:
    """What a Snapshot has of a plugin that fails closed while no release of it is known."""
    return PluginInstance(
        id="shop/demo",
        source="NexusPlugin shop/demo",
        release=Release(name="demo", version="", api="", package="", entry_point="", sha256="", url=""),
        public_key="",
        failure_policy="closed",
        **fields,
    )


LACKING = Lacking("PluginNotFound", "It is nowhere.")


async def test_a_plugin_without_release_refuses_requests_until_it_has_one(harness: Harness, market: Market) -> None:
    await publish(harness, without_release(lacking=LACKING))
    assert report(harness) == PluginReport("failed", "", "PluginNotFound", "It is nowhere.")
    answer = await ask(harness)
    assert (answer[0], answer[1]["reason"]) == (503, "PluginUnavailable")
    (row,) = (await harness.ask("/plugins"))["plugins"]
    assert (row["version"], row["state"], row["reason"]) == ("", "failed", "PluginNotFound")
    explained = await harness.ask("/explain?path=/")
    assert [(each["state"], each["message"]) for each in explained["plugins"]] == [("failed", "It is nowhere.")]
    await publish(harness, market.instance(market.release("1.0"), failure_policy="closed"))
    assert report(harness).state == "loaded"
    assert (await ask(harness))[2]["x-demo"] == "1.0"
    # Whoever says it has lost all that it knew: what runs here does so all the same.
    await publish(harness, without_release(lacking=LACKING))
    assert report(harness) == PluginReport("previous", "1.0", "PluginNotFound", "It is nowhere.")
    assert (await ask(harness))[2]["x-demo"] == "1.0"


async def test_a_gateway_that_does_not_know_of_plugins_without_release_finds_it_unsigned(harness: Harness) -> None:
    await publish(harness, without_release())
    assert (report(harness).state, report(harness).reason) == ("failed", "PluginSignatureInvalid")
    assert (await ask(harness))[0] == 503


@pytest.mark.parametrize("member", ["../evil.py", "/evil.py", "other/x.py", "demo/../../evil.py", "demo\\evil.py"])
async def test_an_artefact_that_leaves_its_package_is_refused(harness: Harness, market: Market, member: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("demo/__init__.py", "")
        archive.writestr(member, "x")
    await publish(harness, market.instance(market.release(data=buffer.getvalue())))
    assert report(harness).reason == "PluginArtefactInvalid"


async def test_a_zip_bomb_is_refused(harness: Harness, market: Market) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("demo/__init__.py", "")
        archive.writestr("demo/bomb.py", b"\0" * 2**25)
    await publish(harness, market.instance(market.release(data=buffer.getvalue())))
    assert report(harness).reason == "PluginArtefactInvalid"


@pytest.mark.parametrize(
    ("kind", "request_body"),
    [
        ("", "raise RuntimeError('x')"),
        ("", "return None"),
        ("async ", "import asyncio; await asyncio.sleep(30); return request"),
        ("", "raise SystemExit(3)"),
        ("", "raise KeyboardInterrupt"),
        ("async ", "import asyncio; raise asyncio.CancelledError"),
        ("", "return request.with_header('x-a', '1\\r\\nx-b: 2')"),
        ("", "from dataclasses import replace; return replace(request, headers=None)"),
        ("", "from dataclasses import replace; return replace(request, headers=((1, 2),))"),
        ("", "from dataclasses import replace; return replace(request, path='/a HTTP/1.1\\r\\nx-b: 2')"),
        ("", "from dataclasses import replace; return replace(request, method='GET /')"),
        ("", "from nexus_sdk.plugin import Reply; return Reply('200')"),
        ("", "from nexus_sdk.plugin import Reply; return Reply(101)"),
        ("", "from nexus_sdk.plugin import Reply; return Reply(200, (), 'text')"),
        ("", "from nexus_sdk.plugin import Reply; return Reply(200, (('x-a', '1\\r\\nx-b: 2'),))"),
        ("", "return request.with_header('user-agent', '\\ud800')"),
        ("", "from nexus_sdk.plugin import Reply; return Reply(200, (('x-a', '\\ud800'),))"),
    ],
    ids=[
        "raises", "returns the wrong thing", "is too slow", "exits", "interrupts", "cancels", "splits a header", "no headers",
        "numbers as headers", "splits the request line", "two words as method", "text as status", "switches protocols",
        "text as body", "splits the reply's header", "half a surrogate pair", "half a surrogate pair in the reply",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
async def test_a_failing_hook_is_isolated(
    harness: Harness, market: Market, kind: str, request_body: str, policy: str, status: int
) -> None:
    release = market.release(kind=kind, request=request_body)
    await publish(harness, market.instance(release, failure_policy=policy, timeout_s=0.1))
    assert (await ask(harness))[0] == status
    async with harness.client.get(harness.admin("/metrics")) as response:
        assert (
            'nexus_gateway_plugin_hook_errors_total{hook="on_request",plugin="shop/demo"} 1.0' in await response.text()
        )


@pytest.mark.parametrize(
    "response",
    ["raise SystemExit(3)", "return None", "return replace(response, status=204)", "return replace(response, status=1)",
     "return response.with_header('x-a', '1\\r\\nx-b: 2')"],
)  # fmt: skip
@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
async def test_a_failing_response_hook_is_isolated(
    harness: Harness, market: Market, response: str, policy: str, status: int
) -> None:
    code = (
        "from dataclasses import replace\nfrom nexus_sdk.plugin import Plugin\n"
        f"class Demo(Plugin):\n    def on_response(self, request, response):\n        {response}\n"
    )
    data = build_zip({"demo/__init__.py": b"", "demo/plugin.py": code.encode()})
    await publish(harness, market.instance(market.release(data=data), failure_policy=policy))
    for _ in range(2):
        assert (await ask(harness))[0] == status


async def test_a_response_hook_that_outlasts_the_request_is_a_504(harness: Harness, market: Market) -> None:
    """Nothing is written yet: the client gets an answer rather than a bare end, and what the hook says later is not sent."""
    code = (
        "import asyncio\nfrom nexus_sdk.plugin import Plugin\nclass Demo(Plugin):\n"
        "    async def on_response(self, request, response):\n        await asyncio.sleep(0.4)\n        return response\n"
    )
    data = build_zip({"demo/__init__.py": b"", "demo/plugin.py": code.encode()})
    port = await harness.upstreams.start(echo)
    await harness.start()
    instance = market.instance(market.release(data=data))
    policies = {"retry": Retry(attempts=0), "timeouts": Timeouts(request_s=0.1)}
    rules = route(rule("shop/orders", plugins=(instance.id,)))
    await harness.publish(snapshot(rules, upstream(port, **policies), plugins=(instance,)))
    assert harness.client is not None
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, (await response.json())["reason"]) == (504, "RequestTimeout")
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: not proxy.in_flight)


@pytest.mark.parametrize("header", ["('content-length', '1')", "('transfer-encoding', 'chunked')"])
async def test_a_plugin_has_no_say_in_where_messages_end(harness: Harness, market: Market, header: str) -> None:
    """Else the next request on the shared connection, or the next response, would be read from the middle."""
    request = f"return request.with_header(*{header}) if request.path == '/' else Reply(200, ({header},), b'reply')"
    code = (
        "from nexus_sdk.plugin import Plugin, Reply\nclass Demo(Plugin):\n"
        f"    def on_request(self, request):\n        {request}\n"
        f"    def on_response(self, request, response):\n        return response.with_header(*{header})\n"
    )
    data = build_zip({"demo/__init__.py": b"", "demo/plugin.py": code.encode()})
    await publish(harness, market.instance(market.release(data=data)))
    for _ in range(3):
        async with harness.client.post(harness.url("/"), data=b"some body") as response:
            seen = await response.json()
            assert (response.status, seen["content-length"], "transfer-encoding" in seen) == (200, "9", False)
        async with harness.client.get(harness.url("/reply")) as response:
            assert (response.status, await response.read()) == (200, b"reply")


async def test_a_plugin_that_exits_while_it_loads_costs_only_itself(harness: Harness, market: Market) -> None:
    await publish(harness, market.instance(market.release("1.0")))
    for number, (start, reason) in enumerate(
        {"raise SystemExit(1)": "PluginStartFailed", "pass\nimport sys\nsys.exit(1)": "PluginLoadFailed"}.items()
    ):
        await publish(harness, market.instance(market.release(f"2.{number}", start=start)))
        assert (report(harness).state, report(harness).reason) == ("previous", reason)
        assert (await ask(harness))[2]["x-demo"] == "1.0"


async def test_a_cached_artefact_needs_no_marketplace(harness: Harness, market: Market, tmp_path: Path) -> None:
    release = market.release()
    await publish(harness, market.instance(release))
    market.files.clear()
    again = Harness(tmp_path)
    try:
        await publish(again, market.instance(release))
        assert report(again).state == "loaded"
        cached = tmp_path / "plugins" / f"{release.sha256}.zip"
        cached.write_bytes(b"damaged")
    finally:
        await again.close()
    third = Harness(tmp_path)
    try:
        await publish(third, market.instance(release))
        assert report(third).reason == "PluginFetchFailed"
    finally:
        await third.close()


def bundled(name: str, **fields: Any) -> PluginInstance:
    (release,) = parse_index(Bundled().read("index.json", 2**20), "bundled").by_name[name]
    key = Path(__file__).parents[3] / "plugins/index/nexus_plugins/publisher.pub"
    return PluginInstance(
        id=f"shop/{name}", source=f"NexusPlugin shop/{name}", release=release, public_key=key.read_text().strip(),
        failure_policy=release.failure_policy, **fields,
    )  # fmt: skip


async def test_the_bundled_plugins_load_and_work(harness: Harness) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    api_key = bundled("api-key", config=f'{{"keys": [{{"name": "app", "sha256": "{digest}"}}]}}')
    await publish(harness, api_key, bundled("request-id", config='{"header": "X-Trace-Me", "format": "ulid"}'))
    assert {name: each.state for name, each in harness.source.acks[-1].plugins.items()} == {
        "shop/api-key": "loaded", "shop/request-id": "loaded",
    }  # fmt: skip
    status, body, headers = await ask(harness)
    assert (status, body["reason"], headers["WWW-Authenticate"]) == (401, "ApiKeyMissing", 'ApiKey realm="nexus"')
    status, seen, headers = await ask(harness, x_api_key="secret", x_consumer_name="forged")
    assert (status, seen["x-consumer-name"], "x-api-key" in seen) == (200, "app", False)
    assert len(seen["x-trace-me"]) == 26
    assert headers["X-Trace-Me"] == seen["x-trace-me"]


@pytest.mark.parametrize(("request_s", "status"), [(5.0, 200), (0.6, 504)], ids=["in time", "too late"])
async def test_what_a_plugin_does_with_an_answer_is_not_the_endpoints_time(
    harness: Harness, market: Market, request_s: float, status: int
) -> None:
    """Nor is the request made again: its answer is there."""
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(text="ok")

    code = b"""
import asyncio
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    async def on_response(self, request, response):
        await asyncio.sleep(0.9)
        return response
"""
    instance = market.instance(
        market.release(data=build_zip({"demo/__init__.py": b"", "demo/plugin.py": code})), timeout_s=2.0
    )
    policies: dict[str, Any] = {
        "timeouts": Timeouts(request_s=request_s, try_s=0.4),
        "retry": Retry(attempts=2),
        "breaker": CircuitBreaker(failures=1),
    }
    port = await harness.upstreams.start(answer)
    await harness.start()
    rules = rule("shop/orders", plugins=(instance.id,))
    await harness.publish(snapshot(route(rules), upstream(port, **policies), plugins=(instance,)))
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == status
    (row,) = (await harness.ask("/breakers"))["breakers"]
    assert (row["state"], row["failures"], asked) == ("closed", 0, 1)


async def test_an_answer_that_breaks_off_while_a_plugin_has_it_is_not_replaced_behind_its_back(
    harness: Harness, market: Market, peers: Callable[..., Awaitable[int]]
) -> None:
    """Hooks run once: what a fallback answered then would go out without them."""
    seen: list[str] = []

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head.split(b" ", 1)[0].decode())
        if len(seen) > 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ninstead")
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await asyncio.sleep(0.1)
        writer.transport.abort()

    code = b"""
import asyncio
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    async def on_response(self, request, response):
        await asyncio.sleep(0.5)
        return response.with_header("x-checked", "yes")
"""
    instance = market.instance(
        market.release(data=build_zip({"demo/__init__.py": b"", "demo/plugin.py": code})), timeout_s=2.0
    )
    port = await peers(early)
    await harness.start()
    rules = rule("shop/orders", plugins=(instance.id,), filters=(Fallback(upstream="shop/orders"),))
    await harness.publish(snapshot(route(rules), upstream(port), plugins=(instance,)))
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    writer.write(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n" + b"x" * 100000)
    for _ in range(6):
        await asyncio.sleep(0.06)
        writer.write(b"x" * 50000)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 502")
    assert seen == ["PUT"]


async def test_a_stop_right_after_a_listener_went_tells_its_plugins(
    harness: Harness, market: Market, unused_tcp_port: int
) -> None:
    """Requests that were on their way to it keep what it had for a while; not beyond the gateway's own end."""
    instance = market.instance(market.release("1.0"))
    await publish(harness, instance)
    assert harness.gateway is not None
    one = harness.gateway.runtime.published.snapshot
    [listener] = one.listeners
    other = msgspec.structs.replace(listener, id="default/nexus/other", port=unused_tcp_port)
    await harness.publish(msgspec.structs.replace(one, listeners=(listener, other)))
    await harness.publish(one)
    assert harness.gateway.proxy.departures.find(f"tcp:{unused_tcp_port}") is not None
    await harness.gateway.stop(0.5)
    await stopped(harness, "1.0")
