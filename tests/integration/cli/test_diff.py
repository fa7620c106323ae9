"""`nexus diff` against a running gateway: what manifests would change, and what that would do to its requests."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nexus_core.snapshot.samples import Sample
from nexus_gateway.app import Gateway, build_source
from nexus_gateway.settings import GatewaySettings
from nexus_sdk.discovery.memory import MemoryDiscovery

SERVICE = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {{name: {name}, namespace: shop}}
spec: {{type: http, backend: {{addresses: ["127.0.0.1:9"]}}, expose: {{path: {path}}}}}
---
"""
PLUGINS = """
apiVersion: nexus.dev/v1alpha1
kind: NexusMarketplace
metadata: {{name: bundled}}
spec: {{source: {{bundled: true}}, publishers: [{{name: nexus, publicKey: "{key}"}}]}}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusPlugin
metadata: {{name: api-key, namespace: shop}}
spec:
  marketplace: bundled
  enabled: {enabled}
  targetRefs: [{{kind: NexusService, name: orders}}]
  config: {{header: x-api-key, keys: [{{name: web, sha256: {digest}}}]}}
---
"""
KEY = (Path(__file__).parents[3] / "plugins" / "index" / "nexus_plugins" / "publisher.pub").read_text().strip()


class Bed:
    """A gateway over a directory, and a second directory for candidates."""

    def __init__(self, tmp_path: Path) -> None:
        self.running, self.candidate = tmp_path / "running", tmp_path / "candidate"
        for each in (self.running, self.candidate):
            each.mkdir()
        self.gateway: Gateway | None = None
        self._settings = GatewaySettings(
            listen="127.0.0.1:0", admin="127.0.0.1:0", access_log=False, plugin_cache=tmp_path / "plugins" / "cache"
        )

    async def start(self, manifests: str) -> None:
        (self.running / "a.yaml").write_text(manifests)
        self.gateway = Gateway(self._settings, build_source(self._settings, self.running), MemoryDiscovery())
        await self.gateway.start()
        async with asyncio.timeout(10):
            await self.gateway.live()
        for sample in (
            *(Sample("GET", "", f"/orders/{n}") for n in range(3)),
            Sample("GET", "", "/cart", headers=(("x-api-key", "[redacted]:1"),)),
        ):
            self.gateway.samples.keep(sample, 0.0)

    async def diff(self, manifests: str, *arguments: str) -> tuple[int, str, str]:
        (self.candidate / "a.yaml").write_text(manifests)
        assert self.gateway is not None
        admin = f"http://127.0.0.1:{self.gateway.admin_port}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nexus_cli", "diff", "-f", str(self.candidate), "--admin", admin, *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = Bed(tmp_path)
    yield made
    if made.gateway is not None:
        await made.gateway.stop(0.1)


def world(enabled: str = "true", **paths: str) -> str:
    services = "".join(SERVICE.format(name=name, path=path) for name, path in paths.items())
    return services + PLUGINS.format(key=KEY, enabled=enabled, digest="5a" * 32)


async def test_the_same_manifests_change_nothing(bed: Bed) -> None:
    await bed.start(world(orders="/orders", cart="/cart"))
    code, out, err = await bed.diff(world(orders="/orders", cart="/cart"), "--replay")
    assert (code, err) == (0, "")
    assert out == "The gateway runs what the manifests say.\n\n0 of 4 requests change route.\n"


async def test_changes_and_what_they_do_to_requests_are_told(bed: Bed) -> None:
    await bed.start(world(orders="/orders", cart="/cart"))
    code, out, _ = await bed.diff(world("false", orders="/orders", cart="/basket"), "--replay", "-o", "json")
    found: dict[str, Any] = json.loads(out)
    assert code == 1
    changes = {(each["section"], each["id"], each["change"]) for each in found["differences"]}
    assert ("routes", "NexusService/shop/cart", "changed") in changes
    assert ("plugins", "shop/api-key", "removed") in changes
    counts = found["replay"]["counts"]
    assert (counts["lose-auth"], counts["no-route"], counts["change-route"]) == (3, 1, 0)
    assert found["replay"]["summary"].startswith(
        "0 of 4 requests change route; 3 would lose auth; 1 would find no route"
    )


async def test_fail_on_looks_at_these_kinds_alone(bed: Bed) -> None:
    await bed.start(world(orders="/orders", cart="/cart"))
    moved = world(orders="/orders", cart="/basket")
    assert (await bed.diff(moved, "--replay", "--fail-on", "lose-auth"))[0] == 0
    assert (await bed.diff(moved, "--replay", "--fail-on", "lose-auth,no-route"))[0] == 1
    code, _, err = await bed.diff(moved, "--replay", "--fail-on", "no-rout")
    assert code == 2
    assert "no-rout" in err
    assert (await bed.diff(moved, "--fail-on", "no-route"))[0] == 2


async def test_what_is_broken_keeps_its_last_good_version(bed: Bed) -> None:
    await bed.start(world(orders="/orders", cart="/cart"))
    broken = world(orders="/orders", cart="/cart").replace("path: /cart", "pth: /cart")
    code, out, err = await bed.diff(broken)
    assert (code, out) == (0, "The gateway runs what the manifests say.\n")
    assert "last good version" in err
