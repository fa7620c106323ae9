"""The first journey on Kubernetes: what the README and the tutorial promise, with kubectl, helm, curl and Jaeger's API."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nexus_testbed.cluster import CommandError
from shop import Shop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def ready_table(shop: Shop) -> list[str]:
    """The lines of `kubectl get nexusservices` once every service is Ready in them, else none."""
    table = shop.kubectl("get", "nexusservices").splitlines()
    return table if all("True" in row for row in table[1:]) else []


def test_nexusservices_show_ready_endpoints_url_and_age(shop: Shop) -> None:
    """`kubectl get nexusservices` answers the four questions in columns; `kubectl explain` every other."""
    for service in shop.services():  # whatever the tests before did to them
        shop.wait_ready(service)
    # A kill of a moment ago may show only now, and not for long.
    table = shop.eventually(lambda: ready_table(shop), "every row shows True")
    header = table[0].split()
    for column in ("NAME", "READY", "ENDPOINTS", "URL", "AGE"):
        assert column in header, table[0]
    rows = {row.split()[0]: row for row in table[1:]}
    assert {"catalog", "orders", "events", "graphql", "websocket"} <= rows.keys()
    for row in rows.values():
        assert "True" in row, table
    assert re.search(r"\b2/2\b", rows["orders"]) or re.search(r"\b1/1\b", rows["orders"]), rows["orders"]
    assert shop.gateway in rows["orders"]

    explained = shop.kubectl("explain", "nexusservice.spec", "--recursive=false")
    fields = re.findall(r"^  (\w+)\t<", explained, re.MULTILINE)
    assert {"workload", "expose", "policy", "contract", "health", "process", "backend"} <= set(fields), explained
    # Each field is a line `  name <type>`, for some a line `  enum: …`, then the description, indented by four, and a blank line.
    blocks = re.findall(r"^  (\w+)\t<[^\n]*\n(.*?)(?:\n\n|\Z)", explained, re.MULTILINE | re.DOTALL)
    undescribed = [name for name, text in blocks if not re.search(r"^    \S", text, re.MULTILINE)]
    assert not undescribed, f"fields without a word of explanation: {undescribed}"


def test_traffic_flows_through_the_gateway_balanced_over_replicas(shop: Shop) -> None:
    """Requests reach both replicas of a service that Consul lists."""
    shop.kubectl("patch", "nexusservice", "catalog", "--type=merge", "-p", '{"spec":{"workload":{"replicas":2}}}')
    shop.wait_ready("catalog", endpoints="2/2")
    items = shop.curl("/catalog/items")
    assert json.loads(items), items
    for _ in range(20):
        shop.curl("/catalog/items")

    entries = shop.cluster.http_get(f"{shop.consul}/v1/health/service/catalog.shop?passing").json()
    assert len(entries) == 2
    addresses = {f"{entry['Service']['Address']}:{entry['Service']['Port']}" for entry in entries}

    def served() -> set[str]:
        found: set[str] = set()
        for entry in entries:
            metrics = shop.cluster.http_get(
                f"http://{entry['Service']['Address']}:{entry['Service']['Port']}/metrics"
            ).text
            lines = [line for line in metrics.splitlines() if "/items" in line and "_total" in line]
            if any(float(line.rsplit(" ", 1)[1]) > 0 for line in lines):
                found.add(f"{entry['Service']['Address']}:{entry['Service']['Port']}")
        return found

    assert served() == addresses


def test_every_step_of_the_tour_works_on_the_cluster(shop: Shop) -> None:
    """`nexus tour` as the README has it, from a machine that reaches gateway, Jaeger and API server."""
    nexus = Path(sys.executable).with_name("nexus")
    told = json.loads(
        shop.cluster.run_in_net(
            [
                str(nexus), "tour", "--gateway", shop.gateway, "--jaeger", shop.jaeger,
                "--kubeconfig", str(shop.cluster.kubeconfig), "-o", "json",
            ],
            timeout_s=120,
        )
    )  # fmt: skip
    steps = told["steps"]
    assert len(steps) == 10, steps
    assert all(step["ok"] for step in steps), json.dumps(told, indent=1)
    # It put the plugin back as it was.
    assert shop.get("nexusplugin", "api-key")["spec"]["enabled"] is False


def test_nexus_plugin_speaks_to_the_cluster(shop: Shop) -> None:
    """`nexus plugin install, list, disable` through the API server, and what they say of a plugin that is not there."""

    def plugin(*args: str) -> str:
        nexus = str(Path(sys.executable).with_name("nexus"))
        return shop.cluster.run_in_net([nexus, "plugin", *args, "--kubeconfig", str(shop.cluster.kubeconfig)])

    plugin(
        "install",
        "request-id",
        "--name",
        "second-id",
        "-n",
        shop.namespace,
        "--target",
        "NexusService/catalog",
        "--disabled",
    )
    try:
        plugin("enable", "second-id", "-n", shop.namespace)
        shop.wait_condition("nexusplugin", "second-id", "Programmed", "True")
        listed = json.loads(plugin("list", "-o", "json"))
        entry = next(e for e in listed if e["name"] == "second-id")
        assert entry["enabled"] is True, entry
        plugin("disable", "second-id", "-n", shop.namespace)
        shop.wait_condition("nexusplugin", "second-id", "Ready", "True", reason="Disabled")
    finally:
        shop.kubectl("delete", "nexusplugin", "second-id")
    with pytest.raises(CommandError, match="There is no NexusPlugin 'no-such'"):
        plugin("enable", "no-such", "-n", shop.namespace)


def test_a_plugin_from_a_marketplace_is_enabled_and_disabled_without_restart(shop: Shop) -> None:
    gateways = {pod["metadata"]["uid"]: restarts(pod) for pod in shop.gateway_pods()}
    shop.kubectl("patch", "nexusplugin", "api-key", "--type=merge", "-p", '{"spec":{"enabled":true}}')
    shop.eventually(lambda: shop.status_of("/orders") == 401, "the api-key plugin asks for a key")
    shop.wait_condition("nexusplugin", "api-key", "Ready", "True")
    row = shop.kubectl("get", "nexusplugin", "api-key")
    assert "1." in row, f"the installed version is shown: {row}"

    shop.kubectl("patch", "nexusplugin", "api-key", "--type=merge", "-p", '{"spec":{"enabled":false}}')
    shop.wait_each_gateway("/orders", 200, "the disabled plugin lets requests pass")
    assert shop.status_of("/orders") == 200
    assert {pod["metadata"]["uid"]: restarts(pod) for pod in shop.gateway_pods()} == gateways


def restarts(pod: dict[str, Any]) -> int:
    return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])


async def test_one_request_is_one_trace_to_the_websocket(shop: Shop) -> None:
    """gateway → orders → event service → WebSocket delivery, connected, in Jaeger."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with (
        aiohttp.ClientSession(connector=shop.cluster.aiohttp_connector()) as session,
        session.ws_connect(f"{shop.gateway}/ws", timeout=aiohttp.ClientWSTimeout(ws_close=5)) as socket,
    ):
        await socket.send_json({"subscribe": "orders"})
        async with asyncio.timeout(15):
            while (await socket.receive_json()).get("subscribed") != "orders":
                pass
        async with session.post(
            f"{shop.gateway}/orders",
            json={"item": "cup", "quantity": 1},
            headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
        ) as reply:
            assert reply.status == 201, await reply.text()
            order = await reply.json()
        async with asyncio.timeout(15):
            while True:
                message = await socket.receive_json()
                if message.get("channel") == "orders" and message["data"].get("id") == order["id"]:
                    break

    def spans() -> list[tuple[str, str, str | None]]:
        answer = shop.cluster.http_get(f"{shop.jaeger}/api/traces/{trace_id}")
        if answer.status != 200:
            return []
        found = answer.json()["data"][0]
        service = {key: process["serviceName"] for key, process in found["processes"].items()}
        return [
            (
                service[span["processID"]],
                span["operationName"],
                next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), None),
                span["spanID"],
            )
            for span in found["spans"]
        ]

    def way() -> list[str]:
        """The services from the delivery's span up to the topmost that Jaeger holds: it gets them one process at a time."""
        found = spans()
        by_id = {span_id: (service, parent) for service, _, parent, span_id in found}
        passed: list[str] = []
        current = next((s[3] for s in found if "deliver" in s[1] and "websocket" in s[0]), None)
        while current in by_id:
            service, current = by_id[current]
            if not passed or passed[-1] != service:
                passed.append(service)
        return passed

    def complete() -> bool:
        return way()[-1:] == ["nexus-gateway"]

    try:
        await asyncio.to_thread(shop.eventually, complete, "the way from the delivery up to the gateway's span", 30)
    except Exception as err:
        raise AssertionError(f"{err}; the way so far: {' ← '.join(way())}") from err
    passed = way()
    assert passed[0] == "websocket"
    assert "orders" in passed
    assert "events" in passed


@pytest.mark.parametrize(
    ("kind", "manifest", "says"),
    [
        (
            "NexusService",
            {
                "metadata": {"name": "both"},
                "spec": {"backend": {"addresses": ["127.0.0.1:1"]}, "workload": {"image": "x", "port": 80}},
            },
            r"backend",
        ),
        (
            "NexusService",
            {"metadata": {"name": "typo"}, "spec": {"workload": {"image": "x", "port": 99999999}}},
            r"65535",
        ),
        ("NexusPlugin", {"metadata": {"name": "none"}, "spec": {"marketplace": "Not A Name"}}, r"marketplace"),
    ],
)
def test_the_api_server_refuses_with_the_remedy(shop: Shop, kind: str, manifest: dict[str, Any], says: str) -> None:
    document = {"apiVersion": "nexus.dev/v1alpha1", "kind": kind, **manifest}
    refused = shop.refused(document)
    assert re.search(says, refused), refused


def test_two_services_claiming_one_path_the_older_wins_and_the_other_learns_why(shop: Shop) -> None:
    before = shop.curl("/catalog/items")
    shop.apply(
        {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusService",
            "metadata": {"name": "rival"},
            "spec": {"backend": {"addresses": ["10.255.255.1:80"]}, "expose": {"path": "/catalog"}},
        }
    )
    try:
        condition = shop.wait_condition("nexusservice", "rival", "Accepted", "False")
        assert condition["reason"] == "PathConflict"
        assert "catalog" in condition["message"]
        assert ".spec.expose" in condition["message"]
        assert "docs/errors/" in condition["message"]
        assert shop.curl("/catalog/items") == before
    finally:
        shop.kubectl("delete", "nexusservice", "rival")


def test_an_unknown_backend_leaves_every_other_object_working(shop: Shop) -> None:
    shop.apply(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "lost"},
            "spec": {
                "parentRefs": [{"name": "nexus", "namespace": shop.namespace_of_nexus}],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": "/lost"}}],
                        "backendRefs": [{"group": "nexus.dev", "kind": "NexusService", "name": "nowhere"}],
                    }
                ],
            },
        }
    )
    try:

        def refused() -> dict[str, Any]:
            parents = shop.get("httproute", "lost").get("status", {}).get("parents", [])
            conditions = {c["type"]: c for parent in parents for c in parent["conditions"]}
            resolved = conditions.get("ResolvedRefs", {})
            return resolved if resolved.get("status") == "False" else {}

        condition = shop.eventually(refused, "ResolvedRefs=False")
        assert condition["reason"] == "BackendNotFound"
        assert "nowhere" in condition["message"]
        shop.wait_each_gateway("/lost", 500, "a route to nowhere")
        assert shop.status_of("/lost") == 500
        assert shop.status_of("/catalog/items") == 200
    finally:
        shop.kubectl("delete", "httproute", "lost")


def test_a_broken_edit_keeps_the_last_good_version(shop: Shop) -> None:
    """The operator refuses what the schema cannot: the route of the last good version keeps serving."""
    shop.apply(
        {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusService",
            "metadata": {"name": "mirror"},
            "spec": {
                "backend": {"kubernetesService": {"name": "catalog", "port": shop.port_of("catalog")}},
                "expose": {"path": "/mirror", "rewritePrefix": "/"},
            },
        }
    )
    try:
        shop.wait_each_gateway("/mirror/items", 200, "the new route serves")
        shop.kubectl("patch", "nexusservice", "mirror", "--type=merge", "-p", '{"spec":{"expose":{"path":"/catalog"}}}')
        condition = shop.wait_condition("nexusservice", "mirror", "Accepted", "False")
        assert condition["reason"] == "PathConflict"
        assert shop.status_of("/mirror/items") == 200
        assert shop.status_of("/catalog/items") == 200
    finally:
        shop.kubectl("delete", "nexusservice", "mirror")
    shop.eventually(lambda: shop.status_of("/mirror/items") == 404, "the deleted service is gone")


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (lambda spec: {**spec, "version": ">=99"}, "PluginVersionNotFound"),
        (lambda spec: {**spec, "plugin": "no-such-plugin"}, "PluginNotFound"),
    ],
)
def test_a_plugin_that_cannot_be_had_says_why_and_the_gateway_keeps_serving(
    shop: Shop, patch: Callable[[dict[str, Any]], dict[str, Any]], reason: str
) -> None:
    spec = shop.get("nexusplugin", "request-id")["spec"]
    shop.apply(
        {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusPlugin",
            "metadata": {"name": "bad"},
            "spec": patch({**spec, "plugin": "request-id"}),
        }
    )
    try:
        condition = shop.wait_condition("nexusplugin", "bad", "Ready", "False", reason=reason)
        assert "docs/errors/" in condition["message"]
        assert shop.status_of("/catalog/items") == 200
    finally:
        shop.kubectl("delete", "nexusplugin", "bad")


def test_an_unverifiable_plugin_is_not_loaded_and_the_status_says_why(shop: Shop) -> None:
    """A marketplace whose pinned key did not sign the release."""
    shop.apply(
        {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusMarketplace",
            "metadata": {"name": "forged"},
            "spec": {
                "source": {"bundled": True},
                "publishers": [
                    {"name": publisher["name"], "publicKey": "A" * 43 + "="} for publisher in shop.publishers()
                ],
            },
        },
        namespaced=False,
    )
    shop.apply(
        {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusPlugin",
            "metadata": {"name": "forged"},
            "spec": {"marketplace": "forged", "plugin": "request-id", "version": ">=1,<2"},
        }
    )
    try:
        condition = shop.wait_condition("nexusplugin", "forged", "Ready", "False", reason="PluginSignatureInvalid")
        assert "docs/errors/" in condition["message"]
        assert shop.status_of("/catalog/items") == 200
    finally:
        shop.kubectl("delete", "nexusplugin", "forged")
        shop.kubectl("delete", "nexusmarketplace", "forged")
