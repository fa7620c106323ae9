"""The example shop under `nexus up`, as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)


def test_everything_is_ready_and_reported(shop: Any) -> None:
    assert shop.report["ready"] is True
    services = {each["service"]: each for each in shop.report["services"]}
    assert set(services) == {f"shop/{n}" for n in ("catalog", "orders", "events", "graphql", "websocket", "web")}
    assert len(services["shop/catalog"]["replicas"]) == 2
    assert services["shop/orders"]["path"] == "/orders"


def test_the_whole_tour_passes(shop: Any) -> None:
    done = shop.nexus("tour", "--gateway", shop.gateway, "--admin", shop.admin, "-f", str(shop.directory), "-o", "json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, told
    assert told["ok"]
    assert [step["ok"] for step in told["steps"]] == [True] * 10
    assert "gateway → orders" in told["steps"][-1]["result"]


def test_the_tour_says_which_step_failed_and_ends_with_1(nexus: Callable[..., Any]) -> None:
    done = nexus("tour", "--gateway", "http://127.0.0.1:9", "--admin", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "got no answer" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert "step 1 of 10" in done.stderr


def test_a_killed_service_is_started_again_and_traffic_goes_on(shop: Any, wait_for: Callable[..., Any]) -> None:
    """kill -9 of one of two replicas: every request is answered; of the only one: it is back shortly after."""
    os.kill(shop.pid_listening_for("catalog"), signal.SIGKILL)
    for _ in range(30):
        status, _, text = shop.get("/catalog/items")
        assert status == 200, text
    killed = shop.pid_listening_for("orders")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: shop.get("/orders")[0] == 200, "orders answers again")
    assert shop.pid_listening_for("orders") != killed


def test_an_answered_order_gets_its_event_though_events_and_orders_are_killed(
    shop: Any, wait_for: Callable[..., Any]
) -> None:
    """The event service is down when the order is taken, and orders dies before it is back: the outbox has it."""
    os.kill(shop.pid_listening_for("events"), signal.SIGSTOP)
    stopped = shop.pid_listening_for("events")
    try:
        placed = shop.order("Grace")
        os.kill(shop.pid_listening_for("orders"), signal.SIGKILL)
    finally:
        os.kill(stopped, signal.SIGKILL)
    wait_for(lambda: shop.event_of(placed["id"]), "the event of the order", 40)


def test_the_same_idempotency_key_gives_the_same_order(shop: Any) -> None:
    first = shop.order("Ada", idempotency_key="key-1")
    assert shop.order("Ada", idempotency_key="key-1") == first


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"item": "unicorn"}, 422, "does not sell 'unicorn'"),
        ({"item": "cup", "quantity": 0}, 400, "$.quantity"),
        ({"item": "cup", "colour": "red"}, 400, "colour"),
        ({}, 400, "item"),
    ],
)
def test_a_wrong_order_is_refused_with_a_sentence(shop: Any, body: Any, status: int, says: str) -> None:
    found, headers, text = shop.call("POST", "/orders", body)
    assert (found, headers["content-type"].split(";")[0]) == (status, "application/problem+json")
    assert says in json.loads(text)["detail"]


def test_a_plugin_is_switched_by_editing_its_file(shop: Any, wait_for: Callable[..., Any]) -> None:
    path: Path = shop.directory / "plugins.yaml"
    before = path.read_text()
    done = shop.nexus("plugin", "enable", "api-key", "-f", str(shop.directory))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: shop.get("/orders")[0] == 401, "the plugin asks for a key")
    assert shop.get("/orders", x_api_key="shop-demo-key")[0] == 200
    assert shop.get("/catalog/items")[0] == 200, "it is for orders alone"
    listed = json.loads(
        shop.nexus("plugin", "list", "-f", str(shop.directory), "--admin", shop.admin, "-o", "json").stdout
    )
    assert {each["name"]: each["state"] for each in listed} == {"api-key": "loaded", "request-id": "loaded"}

    shop.nexus("plugin", "disable", "api-key", "-f", str(shop.directory))
    wait_for(lambda: shop.get("/orders")[0] == 200, "the plugin is out")
    assert path.read_text() == before, "comments and order of the file are as they were"


def test_explain_names_route_and_endpoints(shop: Any) -> None:
    done = shop.nexus("explain", "GET", f"{shop.gateway}/catalog/items", "--admin", shop.admin, "-o", "json")
    found = json.loads(done.stdout)
    assert found["route"] == "NexusService/shop/catalog"
    assert len(found["upstreams"][0]["endpoints"]) == 2


def test_traces_are_shown_as_a_tree(shop: Any, wait_for: Callable[..., Any]) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    shop.order("Edsger", traceparent=f"00-{trace_id}-b7ad6b7169203331-01")

    def complete() -> str:
        done = shop.nexus("traces", trace_id, "--admin", shop.admin)
        # Spans arrive in any order: until a parent is there its children are roots, too.
        whole = "websocket deliver orders" in done.stdout and "\n└─ " in done.stdout and "\n├─ " not in done.stdout
        return done.stdout if whole else ""

    lines = wait_for(complete, "the whole trace").splitlines()
    assert lines[1].startswith("└─ ")
    assert any("orders: POST /orders" in line for line in lines)


def test_the_manifests_are_followed_while_it_runs(shop: Any, wait_for: Callable[..., Any]) -> None:
    """A new service is started, a changed one is replaced, a broken edit changes nothing, a removed one is stopped."""
    path: Path = shop.directory / "more.yaml"
    manifest = """apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: more, namespace: shop}
spec:
  process: {command: [python, -m, shop_catalog], env: {COLOUR: "%s"}}
  expose: {path: /more, rewritePrefix: /}
"""
    path.write_text(manifest % "red")
    wait_for(lambda: shop.get("/more/items")[0] == 200, "the new service answers")
    first = shop.pid_listening_for("more")

    path.write_text(manifest % "blue")
    wait_for(lambda: first not in shop.pids(), "the changed service is replaced")
    assert shop.get("/more/items")[0] == 200
    second = shop.pid_listening_for("more")

    path.write_text("spec: [")
    wait_for(lambda: "InvalidYaml" in shop.errors.read_text(), "the broken edit is told")
    assert shop.get("/more/items")[0] == 200
    assert second in shop.pids()

    path.unlink()
    wait_for(lambda: second not in shop.pids(), "the removed service is stopped")
    wait_for(lambda: "shop_catalog" not in shop.get("/more/items")[2] and shop.get("/more/items")[0] == 404, "no route")


def test_traces_and_logs_are_of_requests_and_not_of_what_services_do_by_themselves(
    shop: Any, wait_for: Callable[..., Any]
) -> None:
    """The GraphQL service asks for documents every two seconds: that would soon be all that is kept in memory."""

    def asked() -> int:
        registry = json.loads((shop.directory / ".nexus" / "discovery.json").read_text())
        (orders,) = registry["services"]["orders.shop"]["endpoints"]
        with urllib.request.urlopen(f"http://127.0.0.1:{orders['port']}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        found = re.search(r'nexus_http_requests_total\{method="GET",route="/openapi.json",status="200"\} (\d+)', text)
        return int(found[1]) if found else 0

    before = asked()
    wait_for(lambda: asked() >= before + 2, "the GraphQL service asked orders for its document twice")
    shop.order("trace")
    done = shop.nexus("traces", "--last", "200", "--admin", shop.admin, "-o", "json")
    assert "POST /orders" in done.stdout
    assert "/openapi.json" not in done.stdout
    assert "/subscriptions/" not in done.stdout
    log = (shop.directory / ".nexus" / "logs" / "shop-orders.log").read_text()
    assert "POST" in log
    assert "/openapi.json" not in log
