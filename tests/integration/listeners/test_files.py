"""A Gateway with HTTPS from manifests in a directory, without a cluster: the key is sealed and opened on the way."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path

import pytest
from nexus_gateway.app import Gateway
from nexus_gateway.building import build_source
from nexus_gateway.settings import GatewaySettings
from nexus_sdk.discovery.memory import MemoryDiscovery

from tests.integration.listeners.conftest import Listeners, ask

MANIFESTS = """
apiVersion: v1
kind: Secret
metadata: {{name: own, namespace: shop}}
type: kubernetes.io/tls
data: {{tls.crt: {chain}, tls.key: {key}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: main, namespace: shop}}
spec:
  gatewayClassName: nexus
  listeners:
  - {{name: http, port: 80, protocol: HTTP}}
  - name: https
    port: 443
    protocol: HTTPS
    tls: {{certificateRefs: [{{name: own}}]}}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {{name: orders, namespace: shop}}
spec:
  type: http
  backend: {{addresses: ["127.0.0.1:{port}"]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: orders, namespace: shop}}
spec:
  parentRefs: [{{name: main}}]
  rules:
  - backendRefs: [{{group: nexus.dev, kind: NexusService, name: orders, port: 80}}]
"""


@pytest.mark.parametrize("only", ["", "shop/main"])
@pytest.mark.parametrize("seal_key", ["", base64.b64encode(bytes(range(32))).decode()])
async def test_https_is_served_from_files(gateway: Listeners, tmp_path: Path, seal_key: str, only: str) -> None:
    upstream = await gateway.serve("a")
    port = upstream.endpoints.addresses[0][1]  # type: ignore[union-attr]
    chain, key = gateway.authority.issue("api.example")
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "all.yaml").write_text(
        MANIFESTS.format(chain=base64.b64encode(chain.encode()).decode(), key=base64.b64encode(key).decode(), port=port)
    )
    settings = GatewaySettings(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        access_log=False,
        plugin_cache=tmp_path / "plugins",
        seal_key=seal_key,
        gateway=only,
    )
    made = Gateway(settings, build_source(settings, folder), MemoryDiscovery())
    await made.start()
    try:
        async with asyncio.timeout(15):
            await made.live()
        context = ssl.create_default_context(cadata=gateway.authority.pem)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", made.tls_port, ssl=context, server_hostname="api.example"
        )
        assert await ask(reader, writer, "api.example") == (200, "a")
        writer.close()
    finally:
        await made.stop(0.1)
