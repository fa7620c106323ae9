"""A gateway whose one rule has plugins of a test's own, published to it and loaded as any other."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import Permissions, PluginInstance, Release
from nexus_gateway.edge.plugins.slots import Slot
from nexus_gateway.testing import Harness, route, rule, snapshot, upstream
from nexus_marketplace.publishing import public_key

KEY = Ed25519PrivateKey.generate()
_BEGIN = "import asyncio\nfrom nexus_sdk.plugin import Plugin, Reply\n"


class Plugged:
    """The gateway, and the server of its plugins' artefacts."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self._files: dict[str, bytes] = {}
        self._port = 0

    async def open(self) -> None:
        self._port = await self.harness.upstreams.start(self._serve)

    async def _serve(self, request: web.Request) -> web.Response:
        return web.Response(body=io.BytesIO(self._files[request.path]))

    def plugin(self, methods: str, name: str = "demo", **fields: Any) -> PluginInstance:
        """Publish a plugin. methods: of its class, indented by nothing; other classes and functions stand before a line `---`."""
        before, _, own = methods.rpartition("\n---\n")
        lines = "".join(f"    {line}\n" for line in own.strip("\n").split("\n"))
        code = f"{_BEGIN}{before}\nclass Demo(Plugin):\n{lines}"
        data = build_zip({f"{name}/__init__.py": b"", f"{name}/plugin.py": code.encode()})
        digest = hashlib.sha256(data).hexdigest()
        self._files[f"/{digest}.zip"] = data
        granted = fields.pop("granted", Permissions())
        unsigned = Release(
            name=name, version="1.0", api=">=1.1,<2", package=name, entry_point=f"{name}.plugin:Demo", sha256=digest,
            url=f"{digest}.zip", publisher="me", permissions=granted,
        )  # fmt: skip
        signature = base64.b64encode(KEY.sign(signed_bytes(unsigned))).decode()
        return PluginInstance(
            id=f"shop/{name}", source=f"NexusPlugin shop/{name}", public_key=public_key(KEY), granted=granted,
            release=msgspec.structs.replace(unsigned, signature=signature),
            base_url=f"http://127.0.0.1:{self._port}/index.json", **fields,
        )  # fmt: skip

    async def serve(self, port: int, *instances: PluginInstance, server: str = "h1", **policies: Any) -> None:
        """Put plugins on the rule to the upstream at `port`. policies: of the upstream; `rule_fields`, `settings`, of these."""
        fields = policies.pop("rule_fields", {})
        settings = policies.pop("settings", {})
        protocol = "h2" if server == "h2" else "http"
        if self.harness.gateway is None:
            await self.harness.start(**settings)
        rules = route(rule("shop/orders", plugins=tuple(each.id for each in instances), **fields))
        await self.harness.publish(snapshot(rules, upstream(port, protocol=protocol, **policies), plugins=instances))
        for each in instances:
            assert self.slot(each.release.name).report.state == "loaded", self.slot(each.release.name).report

    def slot(self, name: str = "demo") -> Slot:
        """Return where the rule finds a plugin."""
        assert self.harness.gateway is not None
        return self.harness.gateway.runtime.slots[f"shop/{name}"]

    def live(self, name: str = "demo") -> Any:
        """Return the plugin's own object."""
        return self.slot(name).plugin
