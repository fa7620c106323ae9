"""The pure parts of `nexus up`, and of the other commands."""

from __future__ import annotations

import asyncio
import io
import random
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_cli import output, trees
from nexus_cli.errors import UserError
from nexus_cli.plugins.edits import EditRefused, set_enabled
from nexus_cli.tour.traces import build_tree
from nexus_cli.up import backoff, health, logs, plans, ports, registries, screen
from nexus_cli.up.supervisor import Group
from nexus_core.discovery import Endpoint
from nexus_core.model.load import parse_text
from nexus_gateway.edge.listeners.shown import ListenerRow

MANIFEST = """apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: %s, namespace: shop}
spec: %s
"""


def plan_of(name: str, spec: str, previous: dict[str, plans.ServicePlan] | None = None) -> dict[str, plans.ServicePlan]:
    resources, _ = parse_text(MANIFEST % (name, spec), "x.yaml")
    return plans.build_plans([(r, Path("/app/x.yaml")) for r in resources], previous or {})


def test_a_process_becomes_a_plan() -> None:
    spec = (
        "{process: {command: [python, -m, a], replicas: 2, directory: src, env: {A: b}}, contract: {openapi: /o.json}}"
    )
    plan = plan_of("a", spec)["shop/a"]
    assert (plan.registered, plan.command, plan.replicas) == ("a.shop", ("python", "-m", "a"), 2)
    assert (plan.directory, plan.env, plan.health_path) == (Path("/app/src"), {"A": "b"}, "/readyz")
    assert plan.meta == {"nexus-type": "http", "nexus-namespace": "shop", "nexus-openapi": "/o.json"}


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        ("{workload: {image: x}}", "add spec.process"),
        ("{backend: {kubernetesService: {name: x, port: 80}}}", "only a cluster"),
        ("{backend: {consul: {service: x}}}", "in Consul"),
        ("{backend: {addresses: ['10.0.0.1:80']}}", "10.0.0.1:80"),
    ],
)
def test_what_is_not_run_here_says_why(spec: str, note: str) -> None:
    plan = plan_of("a", spec)["shop/a"]
    assert plan.command == ()
    assert note in plan.note


def test_a_broken_manifest_keeps_its_last_good_plan() -> None:
    good = plan_of("a", "{process: {command: [x]}}")
    assert plan_of("a", "{process: {comand: [y]}}", good) == good


@pytest.mark.parametrize(
    ("after", "action"),
    [
        ("{process: {command: [x]}}", None),
        ("{process: {command: [y]}}", "restart"),
        ("{process: {command: [x], env: {A: b}}}", "restart"),
        ("{process: {command: [x], port: 9}}", "restart"),
        ("{process: {command: [x], replicas: 3}}", "scale"),
        ("{process: {command: [x]}, expose: {path: /a}}", "update"),
        ("{process: {command: [x]}, health: {path: /h}}", "update"),
        ("{workload: {image: x}}", "restart"),
    ],
)
def test_an_edit_touches_processes_only_when_it_must(after: str, action: str | None) -> None:
    changes = plans.changes(plan_of("a", "{process: {command: [x]}}"), plan_of("a", after))
    assert changes == ({"shop/a": action} if action else {})


def test_new_and_removed_services() -> None:
    a, b = plan_of("a", "{process: {command: [x]}}"), plan_of("b", "{process: {command: [x]}}")
    assert plans.changes(a, b) == {"shop/a": "stop", "shop/b": "start"}


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_pauses_grow_are_jittered_and_bounded(seed: int, ends: int) -> None:
    policy = backoff.Backoff(random.Random(seed))
    for n in range(ends):
        pause_s = policy.ended(0.1)
        full = min(backoff.LONGEST_S, backoff.FIRST_S * 2**n)
        assert full / 2 <= pause_s <= full
    assert policy.is_loop == (ends >= backoff.LOOP_AFTER)


def test_a_stable_run_resets_the_pause() -> None:
    policy = backoff.Backoff(random.Random(1))
    for _ in range(10):
        policy.ended(0.1)
    assert policy.ended(backoff.STABLE_S) <= backoff.FIRST_S
    assert not policy.is_loop


PLUGINS = """# a comment
kind: NexusPlugin
metadata: {name: a, namespace: shop}
spec:
  version: ">=1"   # keep me
  enabled: false   # and me
---
kind: NexusPlugin
metadata: {name: b}
spec: {version: ">=1"}
---
kind: NexusPlugin
metadata: {name: c, namespace: shop}
spec:
    version: ">=1"
"""


def test_an_edit_changes_one_word() -> None:
    changed = set_enabled(PLUGINS, kind="NexusPlugin", namespace="shop", name="a", enabled=True)
    assert changed == PLUGINS.replace("enabled: false", "enabled: true")
    assert set_enabled(changed, kind="NexusPlugin", namespace="shop", name="a", enabled=False) == PLUGINS


@pytest.mark.parametrize(
    ("namespace", "name", "was", "becomes"),
    [
        ("default", "b", 'spec: {version: ">=1"}', 'spec: {enabled: false, version: ">=1"}'),
        ("shop", "c", '    version: ">=1"\n', '    enabled: false\n    version: ">=1"\n'),
    ],
)
def test_an_edit_adds_the_field_in_the_files_own_style(namespace: str, name: str, was: str, becomes: str) -> None:
    changed = set_enabled(PLUGINS, kind="NexusPlugin", namespace=namespace, name=name, enabled=False)
    assert changed == PLUGINS.replace(was, becomes)


def test_an_edit_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(EditRefused, match="no NexusPlugin default/a"):
        set_enabled(PLUGINS, kind="NexusPlugin", namespace="default", name="a", enabled=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), (":80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0))],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert ports.parse_address(text, "--listen") == found


@pytest.mark.parametrize("text", ["80", "a:b", "a:99999", "a:-1", ""])
def test_a_wrong_address_names_its_option(text: str) -> None:
    with pytest.raises(UserError, match="--listen"):
        ports.parse_address(text, "--listen")


def test_log_lines_are_made_for_people() -> None:
    assert logs.render_line("plain") == "plain"
    assert logs.render_line('{"level": "info", "message": "stored", "order": 7, "trace_id": "x"}') == "stored order=7"
    assert logs.render_line('{"level": "warning", "message": "late"}') == "WARNING late"
    assert (
        logs.render_line('{"message": "request", "method": "GET", "path": "/a", "status": 200, "duration_ms": 2}')
        == "GET /a 200 2 ms"
    )
    assert logs.render_line("{not json") == "{not json"


def test_a_table_in_a_pipe_is_plain_and_aligned() -> None:
    text = output.render_rows(("name", "state"), [("a", "ready"), ("longer", None)], rich=False)
    assert text == "NAME    STATE\na       ready\nlonger\n"


JAEGER = {
    "traceID": "t",
    "processes": {"p1": {"serviceName": "gateway"}, "p2": {"serviceName": "orders"}},
    "spans": [
        {"spanID": "b", "processID": "p2", "operationName": "POST /orders", "startTime": 1500, "duration": 1000,
         "references": [{"refType": "CHILD_OF", "spanID": "a"}]},
        {"spanID": "a", "processID": "p1", "operationName": "POST", "startTime": 1000, "duration": 2000, "references": []},
    ],
}  # fmt: skip


def test_a_trace_of_jaeger_becomes_a_tree() -> None:
    tree = build_tree(JAEGER)
    assert trees.services_on_way(tree) == ["gateway", "orders"]
    assert trees.render_trace(tree).splitlines() == [
        "trace t  2.0 ms  2 spans",
        "└─ gateway: POST  2.0 ms",
        "   └─ orders: POST /orders  1.0 ms",
    ]


def test_a_very_deep_trace_is_shown() -> None:
    span: dict[str, object] = {"service": "s", "name": "n", "children": []}
    for _ in range(3000):
        span = {"service": "s", "name": "n", "children": [span]}
    assert len(trees.render_trace({"spans": [span]}).splitlines()) == 3002


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_progress_never_wraps(width: int) -> None:
    line = screen.render_progress(1, 8, [f"service-{n}" for n in range(7)], width)
    assert len(line) < width
    assert "service-0" in line or width < 80


def test_the_table_shows_paths_and_the_gateways_url_once() -> None:
    plans_made = plan_of("orders", "{process: {command: [x], replicas: 0}, expose: {path: /orders}}")
    groups = {key: Group(plan) for key, plan in plans_made.items()}
    made = screen.rows(groups, "http://127.0.0.1:8080", "http://127.0.0.1:8081", 1)
    assert [row[2:4] for row in made] == [("", "http://127.0.0.1:8080"), ("", "http://127.0.0.1:8081"), ("/orders", "")]


def test_a_log_that_cannot_be_written_costs_its_lines_alone(tmp_path: Path) -> None:
    said = io.StringIO()
    log = logs.ServiceLog("a", tmp_path / "logs" / "a.log", logs.Terminal(quiet=True, stream=said))
    log.take(b"one")
    log.close()
    (tmp_path / "logs" / "a.log").unlink()
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("in the way")
    second = logs.ServiceLog("a", tmp_path / "logs" / "a.log", logs.Terminal(quiet=True, stream=said))
    second.take(b"two")
    assert list(second.tail) == ["two"]
    assert said.getvalue().count("cannot be written") == 1
    (tmp_path / "logs").unlink()
    (tmp_path / "logs").mkdir()
    second.take(b"three")
    second.close()
    assert (tmp_path / "logs" / "a.log").read_text() == "three\n"


def test_warnings_of_the_start_are_found_in_a_log_once(tmp_path: Path) -> None:
    log = logs.ServiceLog("gateway", tmp_path / "gateway.log", logs.Terminal(quiet=True, stream=io.StringIO()))
    for line in (b"listening", b"WARNING plugin a is not loaded", b"WARNING NexusPlugin b: known", b"ERROR c"):
        log.take(line)
    log.close()
    assert log.warnings({"NexusPlugin b: known"}) == ["WARNING plugin a is not loaded", "ERROR c"]


async def test_discovery_is_written_when_the_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registries, "RETRY_S", 0.02)
    (tmp_path / "d").mkdir()
    file = tmp_path / "d" / "discovery.json"
    registry = registries.LocalRegistry(file)
    (tmp_path / "d").rename(tmp_path / "away")
    await registry.set("a.shop", (Endpoint("127.0.0.1", 1),), {})
    (tmp_path / "away").rename(tmp_path / "d")
    async with asyncio.timeout(5):
        while "a.shop" not in file.read_text():  # noqa: ASYNC110 - a file is no event
            await asyncio.sleep(0.01)
    await registry.close()


@pytest.mark.parametrize(
    ("kind", "probe"), [("http", "http"), ("graphql", "http"), ("grpc", "tcp"), ("tcp", "tcp"), ("udp", "udp")]
)
def test_readiness_is_asked_for_in_a_way_that_the_service_understands(kind: str, probe: str) -> None:
    assert plan_of("a", f"{{type: {kind}, process: {{command: [x]}}}}")["shop/a"].probe == probe


async def test_whoever_takes_a_connection_is_ready() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert (await health.ask_by("tcp", "127.0.0.1", port, "/")).ok
    server.close()
    await server.wait_closed()
    gone = await health.ask_by("tcp", "127.0.0.1", port, "/")
    assert (gone.ok, gone.definite) == (False, False)
    assert str(port) in gone.why


async def test_whoever_has_bound_a_udp_port_is_ready() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert (await health.ask_by("udp", "127.0.0.1", port, "/")).ok
        with pytest.raises(UserError, match=str(port)):
            ports.require_free("127.0.0.1", port, "--x", udp=True)
    assert not (await health.ask_by("udp", "127.0.0.1", port, "/")).ok
    ports.require_free("127.0.0.1", port, "--x", udp=True)


def test_listeners_are_shown_where_they_are_and_why_not() -> None:
    found = (
        ListenerRow("shop/main/a", "Gateway shop/main", "HTTPS", "a.example", 443, 8443, "https://127.0.0.1:8443"),
        ListenerRow("shop/main/b", "Gateway shop/main", "TCP", "", 7, problem="Port 7 is taken."),
    )
    told = screen.render_listeners(found)
    assert "https://127.0.0.1:8443" in told
    assert "not open" in told
    assert screen.closed(found) == ["listener shop/main/b: Port 7 is taken."]
    assert screen.render_listeners(()) == ""
    assert [row["url"] for row in screen.listeners(found)] == ["https://127.0.0.1:8443", ""]
