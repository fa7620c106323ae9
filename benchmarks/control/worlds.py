"""Worlds of a size: Gateways, HTTPRoutes that are like real ones, and the Services they lead to. The same each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]
ROUTES_PER_SERVICE = 5


def world(gateways: int, routes: int) -> Iterator[Manifest]:
    """Yield the manifests: every route has three rules, header changes, a rewrite and a weighted split; every Gateway HTTP alone."""
    yield {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "nexus", **_stamp("class")},
        "spec": {"controllerName": "nexus.dev/gateway-controller"},
    }
    for number in range(gateways):
        yield gateway(number)
    for number in range(max(routes // ROUTES_PER_SERVICE, 1)):
        yield service(number)
    for number in range(routes):
        yield route(number, gateways, routes)


def gateway(number: int) -> Manifest:
    """Return a Gateway that is open to all namespaces."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": f"gateway-{number}", "namespace": "edge", **_stamp(f"gateway-{number}")},
        "spec": {
            "gatewayClassName": "nexus",
            "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}},
                {"name": "shops", "port": 80, "protocol": "HTTP", "hostname": "*.shop.example",
                 "allowedRoutes": {"namespaces": {"from": "All"}}},
            ],
        },
    }  # fmt: skip


def service(number: int) -> Manifest:
    """Return a Service of two ports."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"service-{number}", "namespace": f"team-{number % 20}", **_stamp(f"service-{number}")},
        "spec": {"ports": [{"name": "http", "port": 80}, {"name": "grpc", "port": 81}]},
    }


def route(number: int, gateways: int, routes: int, *, edition: int = 0) -> Manifest:
    """Return an HTTPRoute. edition: grows with each edit, which changes a header that its requests get."""
    services = max(routes // ROUTES_PER_SERVICE, 1)
    first = number % services
    second = (first + 20) % services  # of the same namespace
    team = f"team-{first % 20}"
    second = second if second % 20 == first % 20 else first
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": f"route-{number}",
            "namespace": team,
            "generation": 1 + edition,
            **_stamp(f"route-{number}", edition),
        },
        "spec": {
            "parentRefs": [{"name": f"gateway-{number % gateways}", "namespace": "edge"}],
            "hostnames": [f"r{number}.shop.example"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/api"}}],
                    "filters": [
                        {
                            "type": "RequestHeaderModifier",
                            "requestHeaderModifier": {"set": [{"name": "x-edition", "value": str(edition)}]},
                        },
                        {
                            "type": "URLRewrite",
                            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                        },
                    ],
                    "backendRefs": [
                        {"name": f"service-{first}", "port": 80, "weight": 9},
                        {"name": f"service-{second}", "port": 80, "weight": 1},
                    ],
                    "timeouts": {"request": "10s"},
                },
                {
                    "matches": [
                        {"path": {"type": "Exact", "value": "/status"}, "method": "GET"},
                        {"headers": [{"name": "x-canary", "value": "yes"}]},
                    ],
                    "backendRefs": [{"name": f"service-{second}", "port": 80}],
                },
                {"backendRefs": [{"name": f"service-{first}", "port": 80}]},
            ],
        },
    }


def _stamp(name: str, edition: int = 0) -> Manifest:
    """What an API server adds."""
    return {"uid": f"uid-{name}", "resourceVersion": str(1 + edition), "creationTimestamp": "2026-01-01T00:00:00Z"}
