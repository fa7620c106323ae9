"""A new version of a plugin beside the one that runs, under traffic: what it gets, how it is judged, and that nobody else notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from nexus_core.snapshot import Candidate, CandidateReport, PluginInstance, PluginReport
from nexus_gateway.edge.plugins import loading
from nexus_gateway.testing import Harness, route, rule, snapshot, until, upstream
from nexus_hosting.testing import make_instance

CODE = """
from nexus_sdk.plugin import Plugin, Reply
import asyncio
CALLS = []
STOPPED = []
class Demo(Plugin):
    async def start(self):
        {start}
    async def stop(self):
        STOPPED.append(True)
    {kind}def on_request(self, request):
        CALLS.append(True)
        {request}
    def on_response(self, request, response):
        return response.with_header("x-demo", "{version}")
"""


async def echo(request: web.Request) -> web.Response:
    if request.path == "/slow":
        await asyncio.sleep(1.0)
    return web.Response(text="ok")


class Bench:
    """A gateway, clients that never stop asking, and versions of one plugin."""

    def __init__(self, harness: Harness, port: int) -> None:
        self.harness = harness
        self.port = port
        self.cache = harness.tmp_path / "plugins"

    def version(
        self, version: str, request: str = "return request", *, kind: str = "", start: str = "pass", **fields: Any
    ) -> PluginInstance:
        """Return an instance of a version, whose calls do what `request` says."""
        code = CODE.format(version=version, request=request, kind=kind, start=start)
        release = {"version": version, "changelog": f"What is new in {version}."}
        return make_instance(self.cache, code, release=release, **fields)

    async def publish(self, *instances: PluginInstance, path: str = "/") -> None:
        rules = rule("shop/orders", path=path, plugins=tuple(each.id for each in instances))
        await self.harness.publish(snapshot(route(rules), upstream(self.port), plugins=instances))

    async def ask(self, path: str = "/") -> tuple[int, str]:
        """Return the status of a request, and the version of the plugin that saw its response."""
        assert self.harness.client is not None
        async with self.harness.client.get(self.harness.url(path)) as response:
            await response.read()
            return response.status, response.headers.get("x-demo", "")

    async def asking(self, until_: Callable[[], bool], clients: int = 8) -> Counter[tuple[int, str]]:
        """Have clients ask until something is so; return how often each answer came."""
        seen: Counter[tuple[int, str]] = Counter()

        async def client() -> None:
            while not until_():
                seen[await self.ask()] += 1

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return seen

    @property
    def report(self) -> PluginReport:
        return self.harness.source.acks[-1].plugins["shop/demo"]

    @property
    def candidate(self) -> CandidateReport:
        found = self.report.candidate
        assert found is not None
        return found

    async def spans(self) -> list[dict[str, Any]]:
        """Return all spans of the traces in memory."""

        def flat(trees: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [span for tree in trees for span in (tree, *flat(tree["children"]))]

        return [
            span for trace in (await self.harness.ask("/traces?limit=50"))["traces"] for span in flat(trace["spans"])
        ]

    def is_decided(self) -> bool:
        return self.candidate.state != "running"

    @property
    def slot(self) -> Any:
        assert self.harness.gateway is not None
        return self.harness.gateway.runtime.slots["shop/demo"]

    def said(self, running: Any, name: str) -> list[bool]:
        """Return a list that the module of a plugin keeps."""
        found: list[bool] = type(running.plugin).on_request.__globals__[name]
        return found


@pytest.fixture
async def bench(harness: Harness) -> Bench:
    port = await harness.upstreams.start(echo)
    await harness.start()
    return Bench(harness, port)


def tried(stable: PluginInstance, other: PluginInstance, **terms: Any) -> PluginInstance:
    values = {"percent": 50.0, "seconds": 1.0, "min_calls": 10, **terms}
    return replace(stable, candidate=Candidate(instance=other, **values))


async def test_a_good_candidate_proves_itself_and_takes_over(bench: Bench) -> None:
    one, two = bench.version("1.0"), bench.version("2.0")
    await bench.publish(one)
    former = bench.slot.running
    await bench.publish(tried(one, two))
    assert (bench.report.state, bench.report.version) == ("loaded", "1.0")
    assert (bench.candidate.state, bench.candidate.version) == ("running", "2.0")
    running = bench.slot.trial.candidate.running
    seen = await bench.asking(bench.is_decided)
    assert bench.candidate == CandidateReport("2.0", "passed")
    assert set(seen) == {(200, "1.0"), (200, "2.0")}
    share = seen[200, "2.0"] / seen.total()
    assert abs(share - 0.5) < 0.02, f"{share:.3f} of {seen.total()} requests"
    assert bench.slot.running is former, "nothing but the Snapshot switches"
    after = [await bench.ask() for _ in range(10)]
    assert Counter(after) == {(200, "1.0"): 5, (200, "2.0"): 5}
    calls, stopped = bench.said(running, "CALLS"), bench.said(former, "STOPPED")
    await bench.publish(two)
    assert bench.slot.running is running, "the candidate itself goes on"
    assert bench.report == PluginReport("loaded", "2.0")
    before = len(calls)
    assert [await bench.ask() for _ in range(10)] == [(200, "2.0")] * 10
    assert len(calls) == before + 10
    await until(lambda: stopped == [True])


async def give_up_while_loading(bench: Bench, trying: PluginInstance, wanted: PluginInstance) -> tuple[Any, list[bool]]:
    """Have a candidate pass, and give it up while the Snapshot with `wanted` is being loaded.

    Return what ran as the candidate, and the list of its stops.
    """
    start = "await asyncio.sleep(0.5)"
    code = CODE.format(version="1", request="return request", kind="", start=start)
    slow = make_instance(bench.cache, code, id="shop/slow")
    await bench.publish(trying)
    await until(bench.is_decided)
    trial = bench.slot.trial
    running = trial.candidate.running
    stopped = bench.said(running, "STOPPED")
    taking = asyncio.create_task(bench.publish(wanted, slow))
    await asyncio.sleep(0.2)
    assert bench.slot.trial is trial, "the other plugin is still being loaded"
    trial.refuse("It holds too much memory.")
    await taking
    return running, stopped


async def test_a_candidate_that_is_given_up_while_it_takes_over_goes_on_in_its_place(bench: Bench) -> None:
    """The operator has heard that it passed. What it did since is a matter of its budgets, as with anything that runs."""
    one, two = bench.version("1.0"), bench.version("2.0")
    running, stopped = await give_up_while_loading(bench, tried(one, two, seconds=0.1), two)
    assert bench.slot.running is running
    assert stopped == []
    assert await bench.ask() == (200, "2.0")
    await bench.publish(one)
    await until(lambda: stopped == [True])


async def test_a_candidate_that_is_given_up_while_another_snapshot_is_loaded_stops(bench: Bench) -> None:
    trying = tried(bench.version("1.0"), bench.version("2.0"), seconds=0.1)
    _, stopped = await give_up_while_loading(bench, trying, trying)
    await until(lambda: stopped == [True])
    assert {await bench.ask() for _ in range(4)} == {(200, "1.0")}


async def test_a_candidate_passes_without_traffic_too(bench: Bench) -> None:
    one = bench.version("1.0")
    await bench.publish(tried(one, bench.version("2.0"), seconds=0.2))
    await until(bench.is_decided)
    assert bench.candidate.state == "passed"


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], set[tuple[int, str]], str]] = {
    # name: (of the candidate, terms, what the candidate's requests are answered, what is said)
    "every call fails": (
        {"request": "raise RuntimeError('x')", "failure_policy": "closed"}, {}, {(503, "")}, "All of its 10 calls failed.",
    ),
    "every call fails, openly": (
        {"request": "raise RuntimeError('x')"}, {}, {(200, "")}, "All of its 10 calls failed.",
    ),
    "every third call fails": (
        {"request": "if len(CALLS) % 3 == 0: raise RuntimeError('x')\n        return request", "failure_policy": "closed"},
        {}, {(503, ""), (200, "2.0")}, "calls failed, and 0 % of the running version's",
    ),
    "it answers with errors": (
        {"request": "return Reply(500, (), b'')"}, {}, {(500, "")}, "requests were answered with 5xx",
    ),
    "its calls are slow": (
        {"request": "await asyncio.sleep(0.1)\n        return request", "kind": "async "}, {"latency_ms": 20.0}, {(200, "2.0")},
        "Its calls took",
    ),
    "it is too slow": (
        {"request": "await asyncio.sleep(9)\n        return request", "kind": "async ", "timeout_s": 0.05, "failure_policy": "closed"},
        {}, {(503, "")}, "calls failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_candidate_is_given_up_and_costs_nobody_else(bench: Bench, name: str) -> None:
    changes, terms, answers, why = BAD[name]
    one = bench.version("1.0")
    await bench.publish(one)
    await bench.publish(tried(one, bench.version("2.0", **changes), seconds=60.0, **terms))
    running = bench.slot.trial.candidate.running
    stopped = bench.said(running, "STOPPED")
    seen = await bench.asking(bench.is_decided)
    assert (bench.candidate.state, bench.candidate.reason) == ("refused", "PluginRolledBack")
    assert why in bench.candidate.message
    assert bench.candidate.message.endswith("All requests are with version 1.0 again.")
    assert (200, "1.0") in seen
    assert set(seen) - {(200, "1.0")} <= answers
    failed = sum(count for (status, _), count in seen.items() if status != 200)
    assert failed <= 10 + 2 * 8, "those that show it, and those that were on their way"
    await until(lambda: stopped == [True])
    assert [await bench.ask() for _ in range(20)] == [(200, "1.0")] * 20
    assert bench.report.state == "loaded"
    # The operator takes it out of the Snapshot, and tells nothing of it any more.
    await bench.publish(one)
    assert bench.report == PluginReport("loaded", "1.0")
    assert bench.slot.trial is None


async def test_a_refused_candidate_stays_refused_whatever_else_changes(bench: Bench) -> None:
    one, two = bench.version("1.0"), bench.version("2.0", "raise RuntimeError('x')")
    await bench.publish(tried(one, two, seconds=60.0))
    await bench.asking(bench.is_decided)
    refused = bench.candidate
    await bench.publish(tried(one, two, seconds=60.0), path="/other")
    assert bench.candidate == refused
    await bench.publish(replace(tried(one, two, seconds=60.0), order=7), path="/")
    assert bench.candidate == refused
    assert [await bench.ask() for _ in range(10)] == [(200, "1.0")] * 10


async def test_a_trial_goes_on_over_other_changes(bench: Bench) -> None:
    one, two = bench.version("1.0"), bench.version("2.0")
    await bench.publish(tried(one, two, seconds=60.0))
    trial = bench.slot.trial
    for number in range(4):
        path = "/x" if number and number % 2 else "/"
        assert {await bench.ask(path), await bench.ask(path)} == {(200, "1.0"), (200, "2.0")}
        await bench.publish(tried(one, two, seconds=60.0), path="/" if number % 2 else "/x")
    assert bench.slot.trial is trial
    assert (trial.requests, trial.in_flight) == (4, 0)
    await bench.publish(replace(tried(one, two, seconds=60.0), order=3))
    assert bench.slot.trial is not trial
    assert bench.slot.trial.seen() == trial.seen()
    await bench.publish(replace(tried(one, two, seconds=60.0, percent=1.0), order=3))
    assert bench.slot.trial.requests == 0, "other terms are another trial"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start": "raise RuntimeError('no database')"}, "PluginStartFailed"),
        ({"start": "pass\nraise RuntimeError('x')"}, "PluginLoadFailed"),
        ({"config": {"n": "text"}}, "PluginConfigInvalid"),
    ],
)
async def test_a_candidate_that_cannot_be_loaded_is_refused_at_once(
    bench: Bench, changes: dict[str, Any], reason: str
) -> None:
    one = bench.version("1.0")
    two = bench.version("2.0", **changes)
    if "config" in changes:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        from nexus_hosting.testing import sign

        two = replace(two, release=sign(replace(two.release, config_schema=schema)))
    await bench.publish(tried(one, two))
    assert (bench.candidate.state, bench.candidate.reason) == ("refused", reason)
    assert bench.report.state == "loaded"
    assert [await bench.ask() for _ in range(4)] == [(200, "1.0")] * 4


async def test_a_candidate_that_cannot_be_fetched_waits(bench: Bench, unused_tcp_port: int) -> None:
    one, two = bench.version("1.0"), bench.version("2.0")
    (bench.cache / f"{two.release.sha256}.zip").unlink()
    two = replace(two, base_url=f"http://127.0.0.1:{unused_tcp_port}/index.json")
    await bench.publish(tried(one, two))
    assert (bench.candidate.state, bench.candidate.reason) == ("running", "PluginFetchFailed")
    assert await bench.ask() == (200, "1.0")


async def test_a_candidate_whose_file_was_swapped_waits_for_the_right_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "RETRY_S", 0.1)
    one, two = bench.version("1.0"), bench.version("2.0")
    kept = bench.cache / f"{two.release.sha256}.zip"
    served = {"right": kept.read_bytes(), "now": b"swapped"}
    kept.unlink()

    async def file(request: web.Request) -> web.Response:
        return web.Response(body=served["now"])

    port = await bench.harness.upstreams.start(file)
    two = replace(two, base_url=f"http://127.0.0.1:{port}/")
    await bench.publish(tried(one, two, seconds=60.0))
    assert (bench.candidate.state, bench.candidate.reason) == ("running", "PluginDigestMismatch")
    assert "has SHA-256" in bench.candidate.message
    assert await bench.ask() == (200, "1.0")
    served["now"] = served["right"]
    await until(lambda: bench.candidate == CandidateReport("2.0", "running"))
    assert {await bench.ask() for _ in range(8)} == {(200, "1.0"), (200, "2.0")}


async def test_requests_with_a_refused_candidate_end_with_it(bench: Bench) -> None:
    one = bench.version("1.0")
    two = bench.version("2.0", "if request.path != '/slow': raise RuntimeError('x')\n        return request")
    await bench.publish(tried(one, two, percent=100.0, seconds=60.0))
    running = bench.slot.trial.candidate.running
    stopped = bench.said(running, "STOPPED")
    slow = asyncio.create_task(bench.ask("/slow"))
    await until(lambda: bench.slot.trial.in_flight == 1)
    seen = await bench.asking(bench.is_decided, clients=4)
    assert bench.candidate.state == "refused"
    assert await bench.ask() == (200, "1.0")
    assert seen[200, ""] >= 5, "they passed without it, for it fails open"
    assert not stopped
    assert not slow.done()
    assert await slow == (200, "2.0")
    await until(lambda: stopped == [True])


async def test_a_gateway_that_stops_during_a_trial_stops_both(bench: Bench) -> None:
    one = bench.version("1.0")
    await bench.publish(tried(one, bench.version("2.0"), seconds=60.0))
    both = [bench.said(each, "STOPPED") for each in (bench.slot.running, bench.slot.trial.candidate.running)]
    assert bench.harness.gateway is not None
    await bench.harness.gateway.stop(0.5)
    assert both == [[True], [True]]


async def test_the_admin_api_and_metrics_show_the_candidate(bench: Bench) -> None:
    one = bench.version("1.0")
    await bench.publish(tried(one, bench.version("2.0"), seconds=60.0))
    for _ in range(20):
        await bench.ask()
    (row,) = (await bench.harness.ask("/plugins"))["plugins"]
    assert (row["running_version"], row["calls"], row["errors"], row["hooks"]) == (
        "1.0", 40, 0, ["start", "stop", "on_request", "on_response"],
    )  # fmt: skip
    candidate = row["candidate"]
    assert (candidate["version"], candidate["state"], candidate["requests"], candidate["calls"]) == (
        "2.0",
        "running",
        10,
        20,
    )
    assert candidate["changelog"] == "What is new in 2.0."
    assert bench.harness.client is not None
    async with bench.harness.client.get(bench.harness.admin("/metrics")) as response:
        text = await response.text()
    for line in (
        'nexus_plugin_calls_total{plugin="shop/demo",version="1.0"} 20.0',
        'nexus_plugin_calls_total{plugin="shop/demo",version="2.0"} 20.0',
        'nexus_plugin_candidate{plugin="shop/demo",version="2.0"} 1.0',
        'nexus_plugin_disabled{plugin="shop/demo"} 0.0',
        'nexus_plugin_seconds_count{plugin="shop/demo",version="2.0"} 20.0',
        'nexus_gateway_plugin_hook_duration_seconds_count{hook="on_request",plugin="shop/demo"} 20.0',
    ):
        assert line in text
    spans = [each for each in await bench.spans() if each["name"] == "shop/demo on_request"]
    assert Counter(span["attributes"]["nexus.plugin.version"] for span in spans) == {"1.0": 10, "2.0": 10}
    assert all(
        span["attributes"].get("nexus.plugin.candidate", False) == (span["attributes"]["nexus.plugin.version"] == "2.0")
        for span in spans
    )


async def test_calls_that_fail_are_spans_that_say_so(bench: Bench) -> None:
    one = bench.version("1.0", "raise KeyError('x')", failure_policy="closed")
    await bench.publish(one)
    assert await bench.ask() == (503, "")
    (found,) = [each for each in await bench.spans() if each["name"] == "shop/demo on_request"]
    assert found["attributes"]["error.type"] == "KeyError"
    assert found["status"] == "error"
