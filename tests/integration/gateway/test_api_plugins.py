"""First-party plugins that work on what APIs carry, in a gateway: bodies, streams, calls of their own, and the end of requests."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from nexus_core.snapshot import PluginInstance
from nexus_gateway.testing import until
from nexus_marketplace.publishing import build_artefact, public_key
from nexus_plugin_audit_log import verify
from sentry_sdk.envelope import Envelope

from tests.integration.gateway.plugged import KEY, Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
ROOT = Path(__file__).parents[3] / "plugins"


def published(plugged: Plugged, name: str, config: dict[str, Any], order: int = 0) -> PluginInstance:
    """Return an instance of a first-party plugin that is granted what it asks for."""
    artefact = build_artefact(next((ROOT / name).glob("nexus_plugin_*")), KEY, "me", f"{name}.zip")
    plugged._files[f"/{name}.zip"] = artefact.data
    return PluginInstance(
        id=f"shop/{name}", source=f"NexusPlugin shop/{name}", public_key=public_key(KEY), granted=artefact.release.permissions,
        release=artefact.release, base_url=f"http://127.0.0.1:{plugged._port}/index.json", config=json.dumps(config), order=order,
        failure_policy="closed", timeout_s=5.0,
    )  # fmt: skip


async def started(plugged: Plugged, answer: Any, *plugins: tuple[str, dict[str, Any]]) -> None:
    """Put plugins before a service, in this order."""
    port = await plugged.harness.upstreams.start(answer)
    await plugged.serve(
        port, *(published(plugged, name, config, order) for order, (name, config) in enumerate(plugins))
    )


async def asked(plugged: Plugged, method: str, path: str, **options: Any) -> tuple[ClientResponse, bytes]:
    assert plugged.harness.client is not None
    async with plugged.harness.client.request(method, plugged.harness.url(path), **options) as response:
        return response, await response.read()


async def test_bodies_are_validated_transformed_and_masked_one_after_the_other(plugged: Plugged) -> None:
    got: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        got.append((await request.json(), request.headers.get("x-who")))
        return web.json_response({"mail": "ann@shop.example", "total": 3})

    schema = {"type": "object", "required": ["user"], "properties": {"user": {"type": "string"}}}
    await started(
        plugged, answer,
        ("body-validate", {"request": {"schema": schema}}),
        ("body-transform", {"request": {"template": {"name": {"$": "user"}}, "headers": {"x-who": "user"}},
            "response": {"expression": "{m: mail}"}}),
        ("pii-mask", {"mode": "label", "where": {"responses": True}}),
    )  # fmt: skip
    response, body = await asked(plugged, "POST", "/", json={"user": "ann"})
    assert (response.status, json.loads(body)) == (200, {"m": "[email]"})
    assert got == [({"name": "ann"}, "ann")]
    response, body = await asked(plugged, "POST", "/", json={"user": 1})
    assert (response.status, json.loads(body)["errors"]) == (
        422,
        [{"detail": "must be of type string", "pointer": "#/user"}],
    )
    assert len(got) == 1


async def test_a_mock_and_an_aggregate_answer_without_the_service(plugged: Plugged) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/parts/7":
            return web.json_response({"id": 7})
        if request.path == "/broken":
            return web.Response(status=500)
        raise AssertionError(request.path)

    port = await plugged.harness.upstreams.start(answer)
    api = {
        "openapi": "3.1.0",
        "paths": {"/mocked": {"get": {"responses": {"200": {"content": {"application/json": {"example": [1]}}}}}}},
    }
    base = f"http://127.0.0.1:{port}"
    calls = {"part": {"url": base + "/parts/{path.id}"}, "other": {"url": base + "/broken", "required": False}}
    routes = [{"path": "/whole/{id}", "calls": calls}]
    await plugged.serve(
        port, published(plugged, "mock", {"openapi": api, "unknownOperations": "pass"}),
        published(plugged, "aggregate", {"external": base, "routes": routes}, 1),
    )  # fmt: skip
    assert (await asked(plugged, "GET", "/mocked"))[1] == b"[1]"
    response, body = await asked(plugged, "GET", "/whole/7")
    value = json.loads(body)
    assert (response.status, value["part"], value["other"], value["errors"][0]["part"]) == (
        200,
        {"id": 7},
        None,
        "other",
    )
    assert (await asked(plugged, "GET", "/parts/7"))[1] == b'{"id": 7}'


async def test_streams_of_a_model_pass_at_once_and_are_counted(plugged: Plugged) -> None:
    gate = asyncio.Event()
    bodies: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"delta": {"content": "hello"}}]}\n\n')
        await gate.wait()
        await response.write(b'data: {"choices": [], "usage": {"total_tokens": 400}}\n\ndata: [DONE]\n\n')
        return response

    await started(
        plugged,
        answer,
        ("llm-guard", {"budgets": [{"tokens": 500, "perSeconds": 31536000}], "defaultOutputTokens": 50}),
    )
    prompt = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    assert plugged.harness.client is not None
    url = plugged.harness.url("/v1/chat/completions")
    async with plugged.harness.client.post(url, json=prompt) as response:
        assert (await response.content.readline()).startswith(b"data: ")
        assert response.headers["x-llm-budget-remaining"] == "448"
        gate.set()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    assert bodies[0]["stream_options"] == {"include_usage": True}
    meter = plugged.slot("llm-guard").meter
    await until(lambda: sum(meter.spread("on_done").buckets) == 1)
    response, body = await asked(plugged, "POST", "/v1/chat/completions", json={**prompt, "max_tokens": 99})
    assert (response.status, json.loads(body)["error"]["code"]) == (429, "TokenBudgetExceeded")


async def test_another_model_answers_when_the_first_fails(plugged: Plugged) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/other":
            return web.json_response(
                {"choices": [{"message": {"content": "from the other"}}], "usage": {"total_tokens": 7}}
            )
        return web.json_response({"error": {}}, status=503)

    port = await plugged.harness.upstreams.start(answer)
    config = {
        "fallback": {"url": f"http://127.0.0.1:{port}/other"},
        "budgets": [{"tokens": 500, "perSeconds": 31536000}],
    }
    await plugged.serve(port, published(plugged, "llm-guard", {**config, "defaultOutputTokens": 10}))
    response, body = await asked(plugged, "POST", "/v1/chat/completions", json={"messages": [{"content": "hi"}]})
    assert (response.status, response.headers["x-llm-provider"]) == (200, "fallback")
    assert response.headers["x-llm-budget-remaining"] == "493"
    assert json.loads(body)["choices"][0]["message"]["content"] == "from the other"


async def test_what_is_over_is_logged_and_reported(plugged: Plugged) -> None:
    lines: list[str] = []
    events: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/audit":
            lines.extend((await request.text()).splitlines())
            return web.Response(status=202)
        if request.path == "/api/42/envelope/":
            events.append(Envelope.deserialize(gzip.decompress(await request.read())).get_event())
            return web.json_response({})
        return web.Response(status=500 if request.path == "/fails" else 200, body=await request.read())

    port = await plugged.harness.upstreams.start(answer)
    audit = {
        "log": False,
        "requestDigest": True,
        "responseDigest": True,
        "http": {"url": f"http://127.0.0.1:{port}/audit"},
    }
    await plugged.serve(
        port,
        published(plugged, "audit-log", audit),
        published(plugged, "sentry", {"dsn": f"http://key@127.0.0.1:{port}/42"}, 1),
    )
    assert (await asked(plugged, "POST", "/works", data=b"x" * 200_000))[1] == b"x" * 200_000
    assert (await asked(plugged, "POST", "/fails", data=b"y"))[0].status == 500
    await until(lambda: len(lines) == 2 and len(events) == 1)
    assert verify(lines) == []
    first, second = map(json.loads, lines)
    assert first["request_sha256"] == first["response_sha256"] == hashlib.sha256(b"x" * 200_000).hexdigest()
    assert (first["path"], first["outcome"], second["path"], second["outcome"]) == (
        "/works",
        "success",
        "/fails",
        "failure",
    )
    assert events[0]["tags"]["status"] == "500"
    assert events[0]["contexts"]["exchange"]["request_id"] == second["request_id"]
