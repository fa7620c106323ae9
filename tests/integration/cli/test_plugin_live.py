"""`nexus plugin top`, `logs` and `describe` against a gateway that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession, web
from msgspec.structs import replace
from nexus_core.hooks import Event
from nexus_core.snapshot import Candidate, PluginInstance
from nexus_gateway.testing import Harness, route, rule, snapshot, upstream
from nexus_hosting.testing import make_instance
from nexus_sdk import ServiceApp
from nexus_sdk.app import RunningService
from nexus_sdk.plugins import ServicePlugins

CODE = """
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    def on_request(self, request):
        self.context.log.info("seen %s", request.path)
        return request
"""
BAD = CODE.replace("return request", "raise RuntimeError('x')")


@pytest.fixture(autouse=True)
def _said() -> Iterator[None]:
    log = logging.getLogger("nexus.plugin")
    log.setLevel(logging.INFO)
    yield
    log.setLevel(logging.NOTSET)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Harness]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    harness = Harness(tmp_path)
    try:
        port = await harness.upstreams.start(answer)
        one, two = (
            make_instance(
                tmp_path / "plugins", code, release={"version": version, "changelog": "Much.", "hooks": ("on_request",)}
            )
            for code, version in ((CODE, "1.0.0"), (BAD, "2.0.0"))
        )
        other: PluginInstance = replace(one, id="lab/demo")
        tried = replace(one, candidate=Candidate(instance=two, percent=50.0, seconds=60.0, min_calls=5))
        rules = rule("shop/orders", plugins=("lab/demo", "shop/demo"))
        await harness.start(snapshot(route(rules), upstream(port), plugins=(other, tried)))
        assert harness.client is not None
        for _ in range(20):
            async with harness.client.get(harness.url("/items")) as response:
                await response.read()
        yield harness
    finally:
        await harness.close()


async def nexus(harness: Harness, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nexus_cli", "plugin", *arguments, "--admin", harness.admin(""), stdout=-1, stderr=-1
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def test_top_shows_what_plugins_cost(gateway: Harness) -> None:
    code, out, err = await nexus(gateway, "top", "--once")
    assert code == 0, err
    head, *rows = out.splitlines()
    assert head.split() == ["PLUGIN", "IN", "VERSION", "STATE", "CALLS/S", "ERRORS/S", "P50", "P99", "CPU", "MEMORY"]
    found = {row.split()[0]: row for row in rows}
    assert set(found) == {"lab/demo", "shop/demo"}
    assert "1.0.0 (2.0.0 refused)" in found["shop/demo"]
    code, out, err = await nexus(gateway, "top", "-o", "json")
    rows_of = {row["id"]: row for row in json.loads(out)}
    assert (rows_of["lab/demo"]["calls"], rows_of["lab/demo"]["errors"]) == (20, 0)
    assert rows_of["shop/demo"]["errors"] == 5
    assert rows_of["shop/demo"]["candidate"]["reason"] == "PluginRolledBack"


HUB = """
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    def on_event_accepted(self, event):
        if event.id == "bad":
            raise RuntimeError("x")
        return event
"""


@contextlib.asynccontextmanager
async def hub(tmp_path: Path, calls: tuple[str, ...]) -> AsyncIterator[RunningService]:
    """Run an instance of the service lab/hub with the plugin lab/mask, which has seen these events."""
    tmp_path.mkdir()
    one = make_instance(tmp_path / "plugins", HUB, release={"hooks": ("on_event_accepted",)})
    (tmp_path / "list.json").write_bytes(msgspec.json.encode([replace(one, id="lab/mask")]))
    environ = {
        "NEXUS_NAMESPACE": "lab",
        "NEXUS_PLUGINS_FILE": str(tmp_path / "list.json"),
        "NEXUS_PLUGIN_CACHE": str(tmp_path / "plugins"),
    }
    app = ServiceApp("hub", environ=environ)
    plugins = ServicePlugins(app)
    async with app.test_server() as server, asyncio.timeout(30), ClientSession() as client:
        while True:
            async with client.get(f"{server.url}/readyz") as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.02)
        for name in calls:
            event = Event(id=name, source="/lab", type="t", data=b"")
            await plugins.change("on_event_accepted", event, lambda hook, each: hook(each))
        yield server


async def test_top_shows_plugins_of_services_too(gateway: Harness, tmp_path: Path) -> None:
    async with hub(tmp_path / "a", ("1", "2", "bad")) as one, hub(tmp_path / "b", ("3",)) as two:
        up = tmp_path / "up"
        (up / ".nexus").mkdir(parents=True)
        listed = {
            "hub.lab": {
                "endpoints": [{"address": two.host, "port": two.port, "id": "b"}],
                "meta": {"nexus-type": "events"},
            },
            "web.lab": {"endpoints": [{"address": "127.0.0.1", "port": 1, "id": "w"}], "meta": {"nexus-type": "http"}},
        }
        (up / ".nexus" / "discovery.json").write_text(json.dumps({"services": listed}))
        code, out, err = await nexus(gateway, "top", "-o", "json", "--service", one.url, "-f", str(up))
        assert (code, err) == (0, "")
        rows = {(row["id"], row["service"]): row for row in json.loads(out)}
        assert set(rows) == {("lab/demo", None), ("shop/demo", None), ("lab/mask", "lab/hub")}
        mask = rows["lab/mask", "lab/hub"]
        assert (mask["calls"], mask["errors"], mask["state"], mask["running_version"]) == (4, 1, "loaded", "1.0.0")
        code, out, err = await nexus(gateway, "top", "--once", "--service", f"{one.url}/")
        assert code == 0, err
        assert {tuple(line.split()[:2]) for line in out.splitlines()[1:]} == {
            ("lab/demo", "gateway"), ("shop/demo", "gateway"), ("lab/mask", "lab/hub"),
        }  # fmt: skip


async def test_top_says_which_service_did_not_answer(gateway: Harness, tmp_path: Path) -> None:
    code, _, err = await nexus(gateway, "top", "--once", "--service", gateway.url(""))
    assert (code, "Correct --service, or forward a port to the service." in err) == (2, True)
    (tmp_path / ".nexus").mkdir()
    gone = {"endpoints": [{"address": "127.0.0.1", "port": 1, "id": "b"}], "meta": {"nexus-type": "graphql"}}
    (tmp_path / ".nexus" / "discovery.json").write_text(json.dumps({"services": {"hub.lab": gone}}))
    code, out, err = await nexus(gateway, "top", "--once", "-f", str(tmp_path))
    assert (code, len(out.splitlines())) == (0, 3)
    assert err.startswith("http://127.0.0.1:1/plugins did not say what plugins cost:")


async def test_logs_shows_the_last_lines_and_those_that_come(gateway: Harness) -> None:
    code, out, err = await nexus(gateway, "logs", "lab/demo")
    assert code == 0, err
    assert [line.split(" ", 1)[1] for line in out.splitlines()] == ["INFO seen /items"] * 20
    code, _, err = await nexus(gateway, "logs", "demo")
    assert (code, "Choose with -n" in err) == (2, True)
    code, _, err = await nexus(gateway, "logs", "other")
    assert (code, "Those that do: lab/demo, shop/demo" in err) == (1, True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nexus_cli", "plugin", "logs", "demo", "-n", "lab", "--follow", "-o", "json",
        "--admin", gateway.admin(""), stdout=-1,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            for _ in range(20):
                assert json.loads(await process.stdout.readline())["message"] == "seen /items"
            assert gateway.client is not None
            async with gateway.client.get(gateway.url("/now")) as response:
                await response.read()
            assert json.loads(await process.stdout.readline())["message"] == "seen /now"
    finally:
        process.kill()
        await process.wait()


async def test_describe_says_why_a_candidate_was_refused(gateway: Harness, tmp_path: Path) -> None:
    (tmp_path / "plugin.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusPlugin\nmetadata: {name: demo, namespace: shop}\nspec: {marketplace: mine}\n"
    )
    code, out, err = await nexus(gateway, "describe", "demo", "-f", str(tmp_path / "plugin.yaml"), "-o", "json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["state"], found["version"]) == ("loaded", "1.0.0")
    candidate = found["candidate"]
    assert (candidate["version"], candidate["state"], candidate["changelog"]) == ("2.0.0", "refused", "Much.")
    assert candidate["why"].startswith("PluginRolledBack: All of its 5 calls failed. The last: on_request: ")
    assert found["cost"]["errors"] == 5
