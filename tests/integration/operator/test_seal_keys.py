"""The Secret with the seal key: made once, kept for ever, and never overwritten."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from nexus_core.certificates.sealing import Seal
from nexus_operator.edge.kube import KubeApi, KubeError
from nexus_operator.edge.sealkeys import ensure_seal_key


class Secrets:
    """Answers as an API server that holds Secrets of one namespace. before_create: what somebody else makes just before."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.created = 0
        self.before_create: dict[str, dict[str, Any]] = {}

    async def get(self, request: web.Request) -> web.Response:
        found = self.held.get(request.match_info["name"])
        return web.json_response(found or {"message": "not found"}, status=200 if found else 404)

    async def create(self, request: web.Request) -> web.Response:
        self.held |= self.before_create
        body = await request.json()
        name = body["metadata"]["name"]
        if name in self.held:
            return web.json_response({"message": "already exists"}, status=409)
        self.held[name] = body
        self.created += 1
        return web.json_response(body, status=201)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Secrets, KubeApi]]:
    found = Secrets()
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/nexus-system/secrets/{name}", found.get)
    app.router.add_post("/api/v1/namespaces/nexus-system/secrets", found.create)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kube = KubeApi.to(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield found, kube
    await kube.close()
    await runner.cleanup()


def holding(key: bytes) -> dict[str, Any]:
    text = base64.b64encode(base64.b64encode(key)).decode()
    return {"kind": "Secret", "metadata": {"name": "key", "uid": "u"}, "data": {"key": text}}


async def test_it_is_made_at_random_and_then_the_same_for_everybody(server: tuple[Secrets, KubeApi]) -> None:
    secrets, kube = server
    first = await ensure_seal_key(kube, "nexus-system", "key")
    again = await asyncio.gather(*(ensure_seal_key(kube, "nexus-system", "key") for _ in range(3)))
    assert [*again] == [first] * 3
    assert secrets.created == 1
    sealed = Seal(first).seal(b"private", "Secret/shop/web")
    assert Seal(again[0]).unseal(sealed, "Secret/shop/web") == b"private"
    assert await ensure_seal_key(kube, "nexus-system", "another") != first


async def test_of_two_replicas_that_make_it_at_once_the_faster_ones_holds(server: tuple[Secrets, KubeApi]) -> None:
    secrets, kube = server
    secrets.before_create = {"key": holding(b"x" * 32)}
    assert await ensure_seal_key(kube, "nexus-system", "key") == b"x" * 32
    assert secrets.created == 0


@pytest.mark.parametrize(
    "secret", [{"data": {}}, {"data": None}, {"data": {"key": None}}, {"data": {"key": "c2hvcnQ="}}, holding(b"short")]
)
async def test_one_that_cannot_be_used_is_told_and_not_overwritten(
    server: tuple[Secrets, KubeApi], secret: dict[str, Any]
) -> None:
    secrets, kube = server
    secrets.held["key"] = secret
    with pytest.raises(KubeError, match=r"Secret nexus-system/key: .data.key is no seal key. .* Or delete it"):
        await ensure_seal_key(kube, "nexus-system", "key")
    assert secrets.held["key"] == secret
    assert secrets.created == 0
