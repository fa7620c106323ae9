"""`on_manifest` where a gateway reads manifests from files: a real plugin of a signed marketplace, in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import Published, Release
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.making import Maker
from nexus_gateway.edge.sources.remote import RemoteWorkshop
from nexus_gateway.edge.sources.workshop import Workshop
from nexus_marketplace.publishing import public_key
from nexus_marketplace.repository import Keys, Repository

KEY = Ed25519PrivateKey.generate()
CODE = """
    from nexus_sdk.plugin import Manifest, Plugin, Refusal


    class Demo(Plugin):
        def on_manifest(self, manifest: Manifest) -> Manifest | Refusal:
            if manifest.name == "forbidden":
                return Refusal("TeamMissing", "Label it with its team.")
            if manifest.name == "broken":
                raise RuntimeError("not today")
            return manifest.with_spec({**manifest.spec, "expose": {"path": "/v1/" + manifest.name}})
"""


def publish(market: Path) -> None:
    data = build_zip({"demo/__init__.py": b"", "demo/plugin.py": dedent(CODE).encode()})
    digest = hashlib.sha256(data).hexdigest()
    release = Release(
        name="demo", version="1.0.0", api=">=1.1,<2", package="demo", entry_point="demo.plugin:Demo", sha256=digest,
        url=f"artefacts/{digest}.zip", publisher="acme", hooks=("on_manifest",),
    )  # fmt: skip
    signature = base64.b64encode(KEY.sign(signed_bytes(release))).decode()
    signed = msgspec.structs.replace(release, signature=signature)
    index = json.dumps({"version": 1, "releases": [msgspec.to_builtins(signed)]}).encode()
    Repository(market).publish(index, {f"artefacts/{digest}.zip": data}, Keys.one(KEY), datetime.now(UTC))


def write(manifests: Path, market: Path, *services: str, **plugin: Any) -> None:
    objects = [
        ("NexusMarketplace", {"name": "acme"}, {
            "source": {"directory": str(market)}, "publishers": [{"name": "acme", "publicKey": public_key(KEY)}]}),
        ("NexusPlugin", {"name": "demo", "namespace": "shop"}, {"marketplace": "acme", **plugin}),
        *(("NexusService", {"name": name, "namespace": "shop"},
           {"backend": {"addresses": ["127.0.0.1:81"]}, "expose": {"path": f"/{name}"}}) for name in services),
    ]  # fmt: skip
    text = "\n---\n".join(
        json.dumps({"apiVersion": "nexus.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": said})
        for kind, metadata, said in objects
    )
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "public", "namespace": "shop"},
        "spec": {"gatewayClassName": "nexus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    }  # fmt: skip
    (manifests / "all.yaml").write_text(f"{text}\n---\n{json.dumps(gateway)}")


def paths(published: Published) -> dict[str, str]:
    return {route.source: route.rules[0].matches[0].path for route in published.snapshot.routes}


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    await asyncio.to_thread(publish, tmp_path / "market")
    return tmp_path


@pytest.mark.parametrize("make", [Workshop, RemoteWorkshop])
async def test_hooks_on_manifests_run_where_files_are_read(folder: Path, make: Callable[[Path], Maker]) -> None:
    manifests, market = folder / "manifests", folder / "market"
    write(manifests, market, "a", "forbidden")
    source = FileSource(manifests, make(folder / "indexes"), poll_s=0.02, slow_s=60)
    async with asyncio.timeout(60), aclosing(source.watch()) as watched:
        assert paths(await anext(watched)) == {"NexusService shop/a": "/v1/a"}
        [problem] = source.problems
        assert (problem.reason, problem.where.name) == ("PluginRefused", "forbidden")
        write(manifests, market, "a", "b")
        assert paths(await anext(watched)) == {"NexusService shop/a": "/v1/a", "NexusService shop/b": "/v1/b"}
        write(manifests, market, "a", "b", enabled=False)
        assert paths(await anext(watched)) == {"NexusService shop/a": "/a", "NexusService shop/b": "/b"}
        assert source.problems == ()
    await source.close()


async def test_what_fails_in_a_hook_is_a_problem_of_the_plugin(folder: Path) -> None:
    manifests = folder / "manifests"
    write(manifests, folder / "market", "broken", failurePolicy="open")
    source = FileSource(manifests, Workshop(folder / "indexes"), poll_s=0.02, slow_s=60)
    async with asyncio.timeout(60), aclosing(source.watch()) as watched:
        assert paths(await anext(watched)) == {"NexusService shop/broken": "/broken"}
        assert any(p.where.kind == "NexusPlugin" and "RuntimeError: not today" in p.what for p in source.problems)
    await source.close()
