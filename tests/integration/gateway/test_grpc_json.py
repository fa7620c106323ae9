"""The plugin grpc-json before a real gRPC service: JSON in, JSON out, and a status in head or trailers as HTTP's."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from nexus_core.snapshot import PluginInstance
from nexus_marketplace.publishing import build_artefact, public_key

from tests.integration.gateway.grpc_peers import Echo, Service
from tests.integration.gateway.plugged import KEY, Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
PACKAGE = Path(__file__).parents[3] / "plugins/grpc-json/nexus_plugin_grpc_json"
TEXT = ".shop.Text"


def descriptors() -> str:
    file = descriptor_pb2.FileDescriptorProto(
        name="echo.proto", package="shop", syntax="proto3", dependency=["google/api/annotations.proto"]
    )
    kind = descriptor_pb2.FieldDescriptorProto
    text = file.message_type.add(name="Text")
    text.field.add(name="value", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    service = file.service.add(name="Echo")
    unary = service.method.add(name="Unary", input_type=TEXT, output_type=TEXT)
    unary.options.Extensions[annotations_pb2.http].CopyFrom(http_pb2.HttpRule(get="/v1/echo/{value}"))
    spread = service.method.add(name="Spread", input_type=TEXT, output_type=TEXT, server_streaming=True)
    spread.options.Extensions[annotations_pb2.http].CopyFrom(http_pb2.HttpRule(post="/v1/spread", body="value"))
    return base64.b64encode(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()).decode()


@pytest.fixture
async def echo(plugged: Plugged) -> AsyncIterator[Echo]:
    """A gRPC service, with the gateway and the plugin before it."""
    made = Echo()
    service = Service(made)
    await service.start()
    artefact = build_artefact(PACKAGE, KEY, "me", "grpc-json.zip")
    plugged._files["/grpc-json.zip"] = artefact.data
    instance = PluginInstance(
        id="shop/grpc-json", source="NexusPlugin shop/grpc-json", public_key=public_key(KEY), release=artefact.release,
        granted=artefact.release.permissions, base_url=f"http://127.0.0.1:{plugged._port}/index.json",
        config=json.dumps({"descriptors": descriptors()}), failure_policy="closed",
    )  # fmt: skip
    await plugged.serve(service.port, instance, server="h2")
    yield made
    await service.stop()


async def asked(
    plugged: Plugged, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    assert plugged.harness.client is not None
    sent = {"x-same": "1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    url = plugged.harness.url(path)
    async with plugged.harness.client.request(method, url, json=body, headers=sent) as response:
        return response.status, await response.json(content_type=None), dict(response.headers)


async def test_json_in_and_out(plugged: Plugged, echo: Echo) -> None:
    status, value, headers = await asked(plugged, "GET", "/v1/echo/T%C3%BCte", authorization="Bearer x")
    assert (status, value) == (200, {"value": "Tüte"})
    assert headers["Content-Type"] == "application/json"
    assert headers["x-first"] == "1", "metadata comes back"
    assert echo.seen[0]["authorization"] == "Bearer x"
    status, value, _ = await asked(plugged, "POST", "/v1/spread", "a", x_size="0", x_count="3")
    assert (status, value) == (200, [{"value": "a"}] * 3)


@pytest.mark.parametrize(("code", "http"), [("NOT_FOUND", 404), ("UNAUTHENTICATED", 401), ("UNAVAILABLE", 503)])
async def test_a_call_that_fails_at_once(plugged: Plugged, echo: Echo, code: str, http: int) -> None:
    status, value, headers = await asked(plugged, "GET", "/v1/echo/a", x_fail=code)
    assert (status, value["reason"], value["detail"]) == (http, code, "as asked for: 100 % ü")
    assert headers["Content-Type"] == "application/problem+json"


async def test_a_stream_that_fails_behind_its_messages_is_no_success(plugged: Plugged, echo: Echo) -> None:
    status, value, _ = await asked(
        plugged, "POST", "/v1/spread", "a", x_size="0", x_count="2", x_head="1", x_fail="DATA_LOSS"
    )
    assert (status, value["reason"], value["detail"]) == (500, "DATA_LOSS", "in the end")


async def test_what_does_not_fit_does_not_reach_the_service(plugged: Plugged, echo: Echo) -> None:
    assert (await asked(plugged, "POST", "/v1/spread", {"not": "a text"}))[0] == 400
    assert (await asked(plugged, "DELETE", "/v1/echo/a"))[0] == 405
    assert (await asked(plugged, "GET", "/v2"))[0] == 404
    assert echo.seen == []
