"""Services whose endpoints nobody tells are a problem where there are manifests alone, whoever reads these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_gateway.edge.sources.making import Fingerprint, Maker
from nexus_gateway.edge.sources.remote import RemoteWorkshop
from nexus_gateway.edge.sources.workshop import Workshop

MANIFESTS = """apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: catalog, namespace: shop}
spec: {workload: {image: shop/catalog:1}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{name: default, namespace: nexus}]
  rules: [{backendRefs: [{name: orders, port: 80}, {group: nexus.dev, kind: NexusService, name: catalog}]}]
"""
SLICE = """---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders-1, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{port: 9000}]
endpoints: [{addresses: [127.0.0.1]}]
"""


def look(path: Path) -> Fingerprint:
    found = path.stat()
    return ((str(path), found.st_ino, found.st_mtime_ns, found.st_size),)


@pytest.mark.parametrize("make", [Workshop, RemoteWorkshop])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_service_without_a_slice(tmp_path: Path, make: Callable[..., Maker], alone: bool) -> None:
    manifests = tmp_path / "a.yaml"
    manifests.write_text(MANIFESTS)
    maker = make(tmp_path / "cache", alone=alone)
    try:
        made = await maker.make(look(manifests))
        told = [(str(problem.where), problem.reason) for problem in made.problems]
        assert told == ([("Service shop/orders", "NoEndpointSlice")] if alone else [])
        manifests.write_text(MANIFESTS + SLICE)
        assert not (await maker.make(look(manifests))).problems
    finally:
        await maker.close()
