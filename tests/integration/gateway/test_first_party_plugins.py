"""First-party plugins as they are published: loaded by a gateway, with what they ask for granted, and at work on requests."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse, web
from nexus_core.snapshot import PluginInstance
from nexus_gateway.testing import until
from nexus_marketplace.publishing import build_artefact, public_key

from tests.integration.gateway.plugged import KEY, Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
ROOT = Path(__file__).parents[3] / "plugins"
PAGE = "<p>page</p>" * 500


class Service:
    """Answers with a page; counts what reaches it."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.headers = {"cache-control": "max-age=60", "etag": '"1"'}
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        await self.gate.wait()
        if request.headers.get("if-none-match") == '"1"':
            return web.Response(status=304, headers=self.headers)
        return web.Response(text=PAGE, content_type="text/html", headers=self.headers)


def published(plugged: Plugged, name: str, config: dict[str, Any], order: int = 0) -> PluginInstance:
    """Return an instance of a first-party plugin that is granted what it asks for."""
    artefact = build_artefact(next((ROOT / name).glob("nexus_plugin_*")), KEY, "me", f"{name}.zip")
    plugged._files[f"/{name}.zip"] = artefact.data
    return PluginInstance(
        id=f"shop/{name}", source=f"NexusPlugin shop/{name}", public_key=public_key(KEY), granted=artefact.release.permissions,
        release=artefact.release, base_url=f"http://127.0.0.1:{plugged._port}/index.json", config=json.dumps(config), order=order,
        timeout_s=20,
    )  # fmt: skip


async def started(plugged: Plugged, *plugins: tuple[str, dict[str, Any]]) -> Service:
    """Put plugins before a service, in this order."""
    service = Service()
    port = await plugged.harness.upstreams.start(service.answer)
    instances = [published(plugged, name, config, order) for order, (name, config) in enumerate(plugins)]
    await plugged.serve(port, *instances)
    return service


async def got(plugged: Plugged, path: str = "/", method: str = "GET", **options: Any) -> tuple[ClientResponse, bytes]:
    assert plugged.harness.client is not None
    async with plugged.harness.client.request(method, plugged.harness.url(path), **options) as response:
        return response, await response.read()


async def test_responses_are_compressed_stored_so_and_answered_from_the_store(plugged: Plugged) -> None:
    service = await started(plugged, ("response-cache", {}), ("compression", {"encodings": ["gzip"]}))
    said = []
    for accept in ("gzip", "gzip", "identity"):
        response, body = await got(plugged, headers={"accept-encoding": accept})
        said.append(response.headers["cache-status"].removeprefix("nexus; "))
        assert (gzip.decompress(body) if accept == "gzip" else body).decode() == PAGE
        assert response.headers.get("content-encoding") == ("gzip" if accept == "gzip" else None)
        assert response.headers["vary"] == "accept-encoding"
    assert said[0] == "fwd=uri-miss; stored"
    assert said[1].startswith("hit; ttl=")
    assert said[2] == "fwd=uri-miss; stored"
    assert len(service.asked) == 2
    response, body = await got(plugged, headers={"accept-encoding": "gzip", "if-none-match": 'W/"1"'})
    assert (response.status, body, response.headers["etag"]) == (304, b"", 'W/"1"')
    response, body = await got(plugged, method="HEAD", headers={"accept-encoding": "gzip"})
    assert (body, response.headers["content-encoding"], "hit" in response.headers["cache-status"]) == (
        b"",
        "gzip",
        True,
    )


async def test_compression_outside_compresses_what_comes_from_the_store(plugged: Plugged) -> None:
    service = await started(plugged, ("compression", {"encodings": ["gzip"]}), ("response-cache", {}))
    for _ in range(2):
        _, body = await got(plugged, headers={"accept-encoding": "gzip"})
        assert gzip.decompress(body).decode() == PAGE
    assert (await got(plugged, headers={"accept-encoding": "identity"}))[1].decode() == PAGE
    assert len(service.asked) == 1


async def test_of_equal_requests_one_reaches_the_service(plugged: Plugged) -> None:
    service = await started(plugged, ("response-cache", {"waitSeconds": 15}))
    service.gate.clear()
    asking = [asyncio.create_task(got(plugged)) for _ in range(10)]
    live = plugged.live("response-cache")
    await until(lambda: bool(service.asked) and len(live._flights) == 1)
    service.gate.set()
    answers = await asyncio.gather(*asking)
    assert {body.decode() for _, body in answers} == {PAGE}
    assert len(service.asked) == 1
    assert len(live._flights) == 0


async def test_a_client_that_leaves_holds_nobody_back(plugged: Plugged) -> None:
    service = await started(plugged, ("response-cache", {}))
    service.gate.clear()
    leaving = asyncio.create_task(got(plugged))
    live = plugged.live("response-cache")
    await until(lambda: bool(service.asked))
    leaving.cancel()
    await until(lambda: not len(live._flights))
    service.gate.set()
    assert (await got(plugged))[1].decode() == PAGE


async def test_a_stale_page_is_asked_about_and_served_when_the_service_is_gone(plugged: Plugged) -> None:
    service = await started(plugged, ("response-cache", {"staleIfErrorSeconds": 600}))
    await got(plugged)
    live = plugged.live("response-cache")
    begun = live.clock()
    live.clock = lambda: begun + 100
    response, body = await got(plugged)
    assert (response.status, response.headers["cache-status"], body.decode()) == (
        200,
        "nexus; fwd=stale; fwd-status=304; stored",
        PAGE,
    )
    live.clock = lambda: begun + 300
    await plugged.harness.upstreams.close()
    for _ in range(2):
        response, body = await got(plugged)
        assert (response.status, body.decode()) == (200, PAGE), "whoever finds out gets the stale page at once"
        assert "stale-if-error" in response.headers["cache-status"]
    assert len(service.asked) == 2


async def test_users_keys_limits_and_headers_work_together(plugged: Plugged) -> None:
    salt = b"salt" * 4
    made = hashlib.scrypt(b"secret", salt=salt, n=1 << 14, r=8, p=1, dklen=32)
    text = [base64.b64encode(part).decode().rstrip("=") for part in (salt, made)]
    service = await started(
        plugged,
        ("ip-filter", {"allow": ["127.0.0.0/8", "::1"]}),
        ("cors", {"origins": ["https://shop.example"]}),
        ("basic-auth", {"users": [{"name": "ann", "hash": f"$scrypt$ln=14,r=8,p=1${text[0]}${text[1]}"}]}),
        ("rate-limit", {"limits": [{"requests": 3, "perSeconds": 3600, "by": ["consumer"]}]}),
        (
            "headers",
            {"request": [{"do": "set", "name": "x-who", "value": "${header:x-consumer-name} from ${client_ip}"}]},
        ),
    )
    plugged.live("basic-auth").patience_s = 20
    preflight, _ = await got(
        plugged, method="OPTIONS", headers={"origin": "https://shop.example", "access-control-request-method": "PUT"}
    )
    assert preflight.status == 204
    assert (await got(plugged))[0].status == 401
    ann = {"authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
    for left in (2, 1, 0):
        response, _ = await got(plugged, headers={**ann, "origin": "https://shop.example"})
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, "https://shop.example")
        assert f";r={left};" in response.headers["ratelimit"]
    assert (await got(plugged, headers=ann))[0].status == 429
    assert [(each.headers["x-who"], "authorization" in each.headers) for each in service.asked] == [
        ("ann from 127.0.0.1", False)
    ] * 3


async def test_pages_bring_tokens_and_forms_need_them(plugged: Plugged) -> None:
    service = await started(plugged, ("csrf", {"secret": "s" * 32, "insecure": True}))
    response, _ = await got(plugged)
    token = response.cookies["csrf-token"].value
    cookie = {"cookie": f"csrf-token={token}"}
    assert (await got(plugged, method="POST", headers=cookie, data={"a": "1"}))[0].status == 403
    assert (await got(plugged, method="POST", headers=cookie, data={"a": "1", "csrf_token": token}))[0].status == 200
    assert (await got(plugged, method="POST", headers={**cookie, "x-csrf-token": token}, data=b"x"))[0].status == 200
    assert (
        await got(plugged, method="POST", headers={**cookie, "x-csrf-token": token, "origin": "https://evil.example"})
    )[0].status == 403
    assert [request.method for request in service.asked] == ["GET", "POST", "POST"]


async def test_bots_are_refused_and_browsers_asked_for_a_proof(plugged: Plugged) -> None:
    challenge = {"enabled": True, "secret": "s" * 32, "bits": 8}
    service = await started(plugged, ("bot-guard", {"challenge": challenge, "challengeAt": 1}))
    bad, _ = await got(plugged, headers={"user-agent": "sqlmap/1"})
    doubted, page = await got(plugged, headers={"user-agent": "x", "accept": "text/html"})
    assert (bad.status, doubted.status, b"solve(" in page) == (403, 403, True)
    assert not service.asked


@pytest.mark.parametrize("name", ["response-cache", "rate-limit"])
async def test_redis_that_is_down_costs_no_request(plugged: Plugged, name: str, unused_tcp_port_factory: Any) -> None:
    config: dict[str, Any] = {"redis": {"url": f"redis://127.0.0.1:{unused_tcp_port_factory()}/0"}}
    if name == "rate-limit":
        config["limits"] = [{"requests": 2, "perSeconds": 3600}]
    await started(plugged, (name, config))
    assert [(await got(plugged))[0].status for _ in range(3)] == (
        [200, 200, 429] if name == "rate-limit" else [200] * 3
    )


async def test_asking_for_threads_takes_a_grant(plugged: Plugged) -> None:
    service = Service()
    port = await plugged.harness.upstreams.start(service.answer)
    instance = published(plugged, "basic-auth", {"htpasswd": "a:$scrypt$x"})
    instance = msgspec.structs.replace(instance, granted=msgspec.structs.replace(instance.granted, modules=()))
    with pytest.raises(AssertionError, match="PluginNotPermitted"):
        await plugged.serve(port, instance)
