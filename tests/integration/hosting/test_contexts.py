"""What a plugin may use of its process, each use held against its grants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from nexus_core.certificates.sealing import Seal
from nexus_core.hooks import CallFailed, NotGranted
from nexus_core.snapshot.plugins import Permissions, SealedValue
from nexus_gateway.testing import until
from nexus_hosting import calling
from nexus_hosting.judges import RemoteVerifier, Verifier
from nexus_hosting.means import Means, Reached
from nexus_hosting.starting import Starter
from nexus_marketplace.rejections import PluginRejected

from tests.integration.hosting.conftest import HEAD, Host

CODE = HEAD + "class Demo(Plugin):\n    pass\n"
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Servers:
    def __init__(self) -> None:
        self.runners: list[web.AppRunner] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    async def start(self, answer: Serve | None = None) -> int:
        async def serve(request: web.Request) -> web.StreamResponse:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.asked.append((request.method, request.raw_path, headers, await request.read()))
            return (
                web.Response(status=201, text="made", headers={"X-Seen": "yes"})
                if answer is None
                else await answer(request)
            )

        runner = web.ServerRunner(web.Server(serve))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.runners.append(runner)
        return int(runner.addresses[0][1])


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    made = Servers()
    yield made
    for runner in made.runners:
        await runner.cleanup()


async def context(host: Host, means: Means | None = None, config: dict[str, Any] | None = None, asks: Permissions | None = None,
                  **granted: Any) -> Any:  # fmt: skip
    release = {"permissions": asks} if asks else {}
    running = await host.start(CODE, means, config=config, release=release, granted=Permissions(**granted))
    return running.plugin.context


async def test_a_call_goes_where_it_was_granted(host: Host, servers: Servers) -> None:
    port = await servers.start()
    mine = await context(host, network=(f"127.0.0.1:{port}",))
    answer = await mine.call("POST", f"http://127.0.0.1:{port}/a%20b?c=d", headers=(("x-mine", "1"),), body=b"some")
    assert (answer.status, answer.body, answer.header("x-seen")) == (201, b"made", "yes")
    [(method, path, headers, body)] = servers.asked
    assert (method, path, headers["x-mine"], body) == ("POST", "/a%20b?c=d", "1", b"some")
    assert not {"accept-encoding", "user-agent", "cookie"} & headers.keys()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://[::1]:{port}/",
     "http://localhost.:{port}/"],
)  # fmt: skip
async def test_a_call_elsewhere_is_not_made(host: Host, servers: Servers, url: str) -> None:
    port = await servers.start()
    mine = await context(host, network=("api.example.com", "*.example.org", "localhost:1"))
    with pytest.raises(NotGranted) as caught:
        await mine.call("GET", url.format(port=port))
    assert "shop/demo calls" in str(caught.value)
    assert "spec.grants.network" in str(caught.value)
    assert servers.asked == []


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://user:secret@localhost/", "A URL with a user in it is not called"),
        ("http://localhost\\@127.0.0.1/", "a backslash"),
        ("http://2130706433/", "is a number that is not written as an address"),
        ("ftp://localhost/", "not"),
        ("file:///etc/passwd", "it is not scheme://host"),
        ("http://localhost/?key=secret key", "cannot be called"),
    ],
)
async def test_an_address_that_is_none_fails_without_a_secret_in_the_message(host: Host, url: str, text: str) -> None:
    mine = await context(host, network=("localhost", "127.0.0.1"))
    with pytest.raises(CallFailed) as caught:
        await mine.call("GET", url)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_host_that_the_configuration_names_needs_no_grant(host: Host, servers: Servers) -> None:
    port = await servers.start()
    other = await servers.start()
    asks = Permissions(network=("config:auth.url",))
    mine = await context(host, config={"auth": {"url": f"http://127.0.0.1:{port}/verify"}}, asks=asks)
    assert (await mine.call("GET", f"http://127.0.0.1:{port}/x")).status == 201
    with pytest.raises(NotGranted):
        await mine.call("GET", f"http://127.0.0.1:{other}/x")


async def test_redirects_are_answers(host: Host, servers: Servers) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/", "Set-Cookie": "a=b"})

    port = await servers.start(away)
    mine = await context(host, network=("127.0.0.1",))
    for _ in range(2):
        answer = await mine.call("GET", f"http://127.0.0.1:{port}/")
        assert (answer.status, answer.header("location")) == (302, "http://169.254.169.254/")
    assert "cookie" not in servers.asked[1][2]


async def test_calls_are_bounded(host: Host, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "MAX_ANSWER_BYTES", 2**20)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while request.path == "/large":
                await response.write(b"x" * 65536)
            await asyncio.sleep(1)
        except (ConnectionError, asyncio.CancelledError):
            pass
        return response

    port = await servers.start(endless)
    mine = await context(host, network=("127.0.0.1",))
    with pytest.raises(CallFailed, match="answered with more than 1 MiB"):
        await mine.call("GET", f"http://127.0.0.1:{port}/large")
    with pytest.raises(CallFailed, match=r"did not answer within 0\.1 s"):
        await mine.call("GET", f"http://127.0.0.1:{port}/slow", timeout_s=0.1)


@pytest.mark.parametrize(
    ("method", "headers", "text"),
    [("GET / HTTP/1.1\r\nX: y", (), "is not a method"), ("GET", (("x-a", "1\r\nx-b: 2"),), "does not fit in a line"),
     ("GET", (("x a", "1"),), "is not the name of a header")],
)  # fmt: skip
async def test_a_call_is_one_request(host: Host, servers: Servers, method: str, headers: Any, text: str) -> None:
    port = await servers.start()
    mine = await context(host, network=("127.0.0.1",))
    with pytest.raises(CallFailed, match=text):
        await mine.call(method, f"http://127.0.0.1:{port}/", headers=headers)
    assert [(asked[0], "x-b" in asked[2]) for asked in servers.asked] in ([], [("GET", False)])


async def test_a_refused_connection_is_a_failed_call(host: Host, unused_tcp_port: int) -> None:
    mine = await context(host, network=("127.0.0.1",))
    with pytest.raises(CallFailed, match=f"http://127.0.0.1:{unused_tcp_port} could not be asked"):
        await mine.call("GET", f"http://127.0.0.1:{unused_tcp_port}/secret-path")


async def test_services_are_called_by_their_names(host: Host, servers: Servers) -> None:
    port = await servers.start()
    means = Means(endpoint=lambda name: Reached(f"127.0.0.1:{port}") if name == "shop/orders" else None)
    mine = await context(host, means, services=("shop/orders", "shop/empty"))
    assert (await mine.call("GET", "nexus://shop/orders/a?b=c")).status == 201
    assert (await mine.call("GET", "nexus://shop/orders")).status == 201
    assert [asked[1] for asked in servers.asked] == ["/a?b=c", "/"]
    with pytest.raises(CallFailed, match="shop/empty has no live endpoint"):
        await mine.call("GET", "nexus://shop/empty/")
    with pytest.raises(NotGranted, match=r"permissions\.services"):
        await mine.call("GET", "nexus://shop/billing/")
    everywhere = await context(host, means, services=("*",))
    assert (await everywhere.call("GET", "nexus://shop/orders/")).status == 201
    with pytest.raises(NotGranted, match=r"calls the NexusService billing/orders"):
        await everywhere.call("GET", "nexus://billing/orders/")


async def test_consul_is_read_below_what_was_granted(host: Host) -> None:
    async def consul(key: str) -> bytes | None:
        if key == "plugins/demo/broken":
            raise OSError("no leader")
        return b"value" if key == "plugins/demo/a" else None

    mine = await context(host, Means(consul=consul), consul=("plugins/demo/",))
    assert await mine.consul("plugins/demo/a") == b"value"
    assert await mine.consul("plugins/demo/b") is None
    for key in (
        "plugins/other/a",
        "plugins/demo",
        "",
        "plugins/demo/../other/a",
        "plugins/demo//a",
        "plugins/demo/..",
        "plugins/demo/\n",
    ):
        with pytest.raises(NotGranted):
            await mine.consul(key)
    with pytest.raises(CallFailed, match="no leader"):
        await mine.consul("plugins/demo/broken")
    with pytest.raises(CallFailed, match="There is no Consul here"):
        await (await context(host, consul=("a",))).consul("a")


@pytest.fixture
async def redis_port() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Enough of Redis to say who asked for what."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    await reader.readline()
                    words.append((await reader.readline()).strip())
                seen.append(b" ".join(words))
                writer.write(
                    b"-ERR unknown command\r\n"
                    if words[0] == b"HELLO"
                    else b"+PONG\r\n"
                    if words[0] == b"PING"
                    else b"+OK\r\n"
                )
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            seen.append(b"closed")
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], seen
    server.close()


async def test_redis_is_shared_by_address_and_closed_with_the_plugin(
    host: Host, redis_port: tuple[int, list[bytes]]
) -> None:
    port, seen = redis_port
    mine = await context(host, network=("127.0.0.1",))
    url = f"redis://me:s%40crt@127.0.0.1:{port}/3?protocol=2"
    client = await mine.redis(url)
    assert await mine.redis(url) is client
    assert await client.ping()
    assert b"AUTH me s@crt" in seen
    assert b"SELECT 3" in seen
    await host.stop(host.started[0])
    await until(lambda: seen[-1] == b"closed")


@pytest.mark.parametrize(
    ("url", "kind", "text"),
    [
        ("redis://cache:6379", NotGranted, "connects to cache:6379"),
        ("redis://127.0.0.1\\@evil:6379", CallFailed, "a backslash"),
        ("unix:///var/run/redis.sock", CallFailed, "it is not scheme"),
        ("http://127.0.0.1", CallFailed, "is neither redis nor rediss"),
        ("redis://127.0.0.1/0?host=evil", CallFailed, "'host' is not an option"),
        ("redis://127.0.0.1/0?unix_socket_path=/x", CallFailed, "is not an option"),
        ("redis://:secret@127.0.0.1/x", CallFailed, "is not a number"),
    ],
)
async def test_redis_elsewhere_is_not_reached(host: Host, url: str, kind: type[Exception], text: str) -> None:
    mine = await context(host, network=("127.0.0.1",))
    with pytest.raises(kind) as caught:
        await mine.redis(url)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


SEAL = Seal(b"k" * 32)
TAKES = """
class Demo(Plugin):
    seen = []
    def __init__(self, config):
        super().__init__(config)
        self.first = (config["password"], self.context.secrets["token"])
    async def on_config(self, config):
        if config["password"] == "bad":
            raise ValueError("too short")
        self.config = config
        self.seen.append((config["password"], self.context.secrets.get("token")))
"""
SCHEMA = {
    "properties": {
        "password": {"type": "string", "writeOnly": True, "maxLength": 9},
        "n": {"type": "integer", "default": 1},
    }
}


def sealed(**values: str) -> tuple[SealedValue, ...]:
    names = {name.replace("__", ":"): value for name, value in values.items()}
    return tuple(SealedValue(name, SEAL.seal(value.encode(), f"shop/demo#{name}")) for name, value in names.items())


UNSEALING = Means(unseal=lambda value, about: SEAL.unseal(value.text, about))


async def test_secrets_reach_the_plugin_and_nobody_else(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fields = {"release": {"config_schema": SCHEMA}, "sealed": sealed(config__password="s3cret", secret__token="t0ken")}
    running = await host.start(HEAD + TAKES, UNSEALING, **fields)
    assert running.plugin.first == ("s3cret", "t0ken")
    assert running.plugin.config == {"password": "s3cret", "n": 1}
    with pytest.raises(TypeError):
        running.plugin.context.secrets["token"] = "x"
    assert "s3cret" not in caplog.text
    fields["sealed"] = sealed(config__password="waytoolongsecret", secret__token="x")
    with pytest.raises(PluginRejected) as caught:
        await host.start(HEAD + TAKES, UNSEALING, **fields)
    assert "waytoolong" not in caught.value.message
    assert ".spec.config.password: its value, which is secret" in caught.value.message


async def test_what_is_told_of_its_errors_has_none_of_its_secrets_not_even_former_ones(host: Host) -> None:
    fields = {"release": {"config_schema": SCHEMA}, "sealed": sealed(config__password="s3cret", secret__token="t0ken")}
    running = await host.start(HEAD + TAKES, UNSEALING, **fields)
    assert running.told(ValueError("no t0ken, but s3cret")) == "ValueError: no [redacted], but [redacted]"
    changed = sealed(config__password="an0ther", secret__token="0thers")
    instance = msgspec.structs.replace(running.instance, sealed=changed)
    assert await Starter(host.cache, Verifier(), UNSEALING).reconfigure(running, instance)
    assert running.told(ValueError("s3cret t0ken an0ther 0thers")) == "ValueError: " + " ".join(["[redacted]"] * 4)


async def test_a_call_that_ran_out_of_time_is_told_with_its_budget(host: Host) -> None:
    running = await host.start(HEAD + "class Demo(Plugin):\n    pass\n", timeout_s=0.25)
    assert running.told(TimeoutError()) == "TimeoutError: it took longer than budgets.callSeconds, which is 0.25"
    assert running.told(TimeoutError("redis is away")) == "TimeoutError: redis is away"


FAILS = {
    "constructor": """
    def __init__(self, config):
        raise RuntimeError(f"cannot use {config['password']}")
""",
    "own words": """
    def __init__(self, config):
        from nexus_sdk.plugin import PluginConfigError
        raise PluginConfigError(f"{config['password']} is too easy")
""",
    "start": """
    async def start(self):
        raise ConnectionError(f"https://me:{self.context.secrets['token']}@example.com refused")
""",
    "on_config": """
    def on_config(self, config):
        raise ValueError(f"cannot use {config['password']} and {self.context.secrets['token']}")
""",
}


@pytest.mark.parametrize("name", FAILS)
async def test_no_secret_is_told_by_a_failure(host: Host, name: str) -> None:
    """Statuses and events have these messages."""
    fields = {"release": {"config_schema": SCHEMA}, "sealed": sealed(config__password="s3cret", secret__token="t0ken")}
    code = HEAD + "\nclass Demo(Plugin):\n" + FAILS[name]
    if name == "on_config":
        running = await host.start(code, UNSEALING, **fields)
        starter = Starter(host.cache, Verifier(), UNSEALING)
        fields["sealed"] = sealed(config__password="0thers", secret__token="n3wer")
        with pytest.raises(PluginRejected) as caught:
            await starter.reconfigure(running, host.instance(code, **fields))
        assert "ValueError: cannot use [redacted] and [redacted]. The former" in caught.value.message
    else:
        with pytest.raises(PluginRejected) as caught:
            await host.start(code, UNSEALING, **fields)
        assert "[redacted]" in caught.value.message
    for secret in ("s3cret", "t0ken", "0thers", "n3wer"):
        assert secret not in f"{caught.value} {caught.value.message}"


async def test_the_process_beside_puts_secrets_in_place(host: Host) -> None:
    judge = RemoteVerifier(linger_s=0.0)
    fields = {"release": {"config_schema": SCHEMA}, "sealed": sealed(config__password="s3cret", secret__token="t0ken")}
    try:
        running = await Starter(host.cache, judge, UNSEALING).start(host.instance(HEAD + TAKES, **fields))
    finally:
        await judge.close()
    running.acquire()
    assert running.plugin.config == {"password": "s3cret", "n": 1}
    await running.release()


async def test_a_secret_that_cannot_be_opened_is_said_to_be(host: Host) -> None:
    fields = {"sealed": (SealedValue("secret:token", SEAL.seal(b"x", "another/one#secret:token")),)}
    with pytest.raises(PluginRejected, match="cannot be opened"):
        await host.start(CODE, UNSEALING, **fields)
    with pytest.raises(PluginRejected, match="this process has no key"):
        await host.start(CODE, **fields)
    fields = {"sealed": (SealedValue("secret:token", SEAL.seal(b"\xff\xfe", "shop/demo#secret:token")),)}
    with pytest.raises(PluginRejected, match="it is not UTF-8") as caught:
        await host.start(CODE, UNSEALING, **fields)
    assert caught.value.__cause__ is None


async def test_a_new_configuration_is_taken_without_a_new_instance(host: Host) -> None:
    code = HEAD + TAKES
    starter = Starter(host.cache, __import__("nexus_hosting.judges").judges.Verifier(), UNSEALING)

    def instance(password: str, **fields: Any) -> Any:
        return host.instance(
            code,
            release={"config_schema": SCHEMA},
            sealed=sealed(config__password=password, secret__token=f"t-{password}"),
            **fields,
        )

    running = await host.start(instance("one"), UNSEALING)
    plugin = running.plugin
    assert await starter.reconfigure(running, instance("two", order=3))
    assert running.plugin is plugin
    assert plugin.seen == [("two", "t-two")]
    assert running.instance.order == 3
    for bad, text in (
        ("bad", "did not take the new configuration: ValueError: too short"),
        ("waytoolongsecret", "which is secret"),
    ):
        with pytest.raises(PluginRejected) as caught:
            await starter.reconfigure(running, instance(bad))
        assert (caught.value.reason, text in caught.value.message) == ("PluginConfigInvalid", True)
    assert plugin.context.secrets == {"token": "t-two"}
    assert plugin.config["password"] == "two"
    assert await starter.reconfigure(running, instance("two", timeout_s=3.0)), "nothing that it would have to be told"
    assert len(plugin.seen) == 1
    assert not await starter.reconfigure(running, instance("two", granted=Permissions(modules=("os",)))), "other means"
    other = host.instance(code + "\n# 2", release={"config_schema": SCHEMA, "version": "2.0"})
    assert not await starter.reconfigure(running, other), "other code"


async def test_a_plugin_without_the_hook_gets_a_new_instance(host: Host) -> None:
    running = await host.start(CODE, config={"a": 1})
    assert not await host.starter().reconfigure(running, host.instance(CODE, config={"a": 2}))
    assert await host.starter().reconfigure(running, host.instance(CODE, config={"a": 1}, order=9))


async def test_what_it_knows_of_its_process(host: Host) -> None:
    mine = await context(host, Means(workers=4))
    assert (mine.plugin, mine.version, mine.workers, mine.log.name) == (
        "shop/demo",
        "1.0.0",
        4,
        "nexus.plugin.shop.demo",
    )
