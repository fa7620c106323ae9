"""Nexus with everything switched on, from a directory of manifests as a user writes them.

500 HTTPRoutes with the ten routes of `routes.py`, one NexusService over the backends, one NexusPolicy (balancing, breaker,
outlier ejection, retries, limits), two plugins from a signed marketplace, 1 % tracing, 1 % access log; with TLS an HTTPS
listener and its Secret; with gRPC a GRPCRoute and a NexusService more.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import routes
import yaml
from processes import Command, fetch

from peers.beds import Bed

NAMESPACE = "bench"
_GATEWAY_API = "gateway.networking.k8s.io/v1"
_NEXUS_API = "nexus.dev/v1alpha1"
_HOSTS_A_FILE = 50
_CHANGING = "30-routes-changing.yaml"
ROOT = Path(__file__).resolve().parents[3]
RATE_PER_S = 10_000_000
"""Limit of requests: it counts each one and refuses none."""


def full(bed: Bed) -> Command:
    """Return the gateway with every feature."""
    manifests = bed.work / "manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    _write(manifests / "00-gateway.yaml", _gateway(bed))
    _write(manifests / "10-service.yaml", _service(bed))
    if bed.grpc:
        _write(manifests / "11-calls.yaml", _calls(bed))
    _write(manifests / "20-plugins.yaml", _plugins(bed))
    _write(manifests / _CHANGING, [_http_route(0, 0)])
    numbers = range(1, routes.HOSTS)
    for first in range(0, len(numbers), _HOSTS_A_FILE):
        part = numbers[first : first + _HOSTS_A_FILE]
        _write(manifests / f"30-routes-{first:03}.yaml", [_http_route(number, 0) for number in part])
    # Another build beside this one can be measured: an older checkout, another Python.
    program = os.environ.get("NEXUS_BENCH_NEXUS") or str(Path(sys.executable).parent / "nexus")
    argv = [program, "gateway", "-f", str(manifests), "--listen", f"127.0.0.1:{bed.port}"]
    if bed.workers > 1:
        argv += ["--workers", str(bed.workers)]
    return Command(tuple(argv), _settings(bed))


def changes(bed: Bed) -> tuple[Path, Path, Path]:
    """Write two versions of the first host's manifest. Returns the live file, the even and the odd version."""
    even, odd = bed.work / "even.yaml", bed.work / "odd.yaml"
    for version, path in enumerate((even, odd)):
        _write(path, [_http_route(0, version)])
    return bed.work / "manifests" / _CHANGING, even, odd


def _settings(bed: Bed) -> Mapping[str, str]:
    wanted = {
        "NEXUS_GATEWAY_ADMIN": f"127.0.0.1:{bed.admin_port}",
        "NEXUS_PLUGIN_CACHE": str(bed.work / "plugins"),
        "NEXUS_TRACE_RATIO": "0.01",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{bed.around.collector}",
        "NEXUS_LOG_LEVEL": "WARNING",
        "NEXUS_ACCESS_LOG": "true",
        "NEXUS_ACCESS_LOG_RATIO": "0.01",
        "NEXUS_KEEPALIVE_SECONDS": "600",
        "NEXUS_MAX_CONNECTIONS": "8192",
    }
    if bed.tls_port:
        wanted["NEXUS_GATEWAY_TLS_LISTEN"] = f"127.0.0.1:{bed.tls_port}"
    return wanted


def _gateway(bed: Bed) -> list[dict[str, Any]]:
    everywhere = {"namespaces": {"from": "All"}}
    listeners: list[dict[str, Any]] = [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": everywhere}]
    secrets = []
    if bed.tls_port:
        tls = {"mode": "Terminate", "certificateRefs": [{"name": "bench-tls"}]}
        listeners.append({"name": "https", "port": 443, "protocol": "HTTPS", "allowedRoutes": everywhere, "tls": tls})
        pair = {"tls.crt": bed.around.certificate.read_text(), "tls.key": bed.around.key.read_text()}
        metadata = {"name": "bench-tls", "namespace": NAMESPACE}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls"}
        secrets.append({**secret, "stringData": pair})
    return [
        _object(_GATEWAY_API, "Gateway", "edge", {"gatewayClassName": "nexus", "listeners": listeners}),
        *secrets,
    ]


def _service(bed: Bed) -> list[dict[str, Any]]:
    addresses = [f"127.0.0.1:{port}" for port in bed.around.backends]
    service = {"type": "http", "backend": {"addresses": addresses}}
    policy = {
        "targetRefs": [
            {"kind": "NexusService", "name": name} for name in ("backend", *(["calls"] if bed.grpc else []))
        ],
        "loadBalancing": {"algorithm": "least-request"},
        "circuitBreaker": {"failures": 5, "resetSeconds": 10, "errorPercent": 50},
        "outlierDetection": {"failures": 5, "ejectSeconds": 30, "maxEjectedPercent": 50},
        "concurrency": {"maxRequests": 4096, "maxConnections": 4096},
        "retry": {"attempts": 2, "when": ["connect-failure", "reset", "503"], "budgetPercent": 20},
        "timeouts": {"requestSeconds": 15, "tryTimeoutSeconds": 5},
    }
    # One limit for all that passes the Gateway, as Envoy's stands before its routes.
    limit = {"targetRefs": [{"kind": "Gateway", "name": "edge"}], "rateLimit": [{"requests": RATE_PER_S}]}
    return [
        _object(_NEXUS_API, "NexusService", "backend", service),
        _object(_NEXUS_API, "NexusPolicy", "backend", policy),
        _object(_NEXUS_API, "NexusPolicy", "limit", limit),
    ]


def _calls(bed: Bed) -> list[dict[str, Any]]:
    addresses = [f"127.0.0.1:{port}" for port in bed.around.calls]
    backend = {"group": "nexus.dev", "kind": "NexusService", "name": "calls"}
    rule = {"matches": [{"method": {"service": routes.CALLS_SERVICE}}], "backendRefs": [backend]}
    spec = {"parentRefs": [{"name": "edge"}], "hostnames": [routes.CALLS_HOST], "rules": [rule]}
    return [
        _object(_NEXUS_API, "NexusService", "calls", {"type": "http", "backend": {"addresses": addresses}}),
        _object(_GATEWAY_API, "GRPCRoute", "calls", spec),
    ]


def lacks(bed: Bed) -> list[str]:
    """Return which of the features that the manifests ask for the running gateway does not have, as its admin API tells."""
    config = json.loads(fetch(bed.admin_port, "admin", "/config", timeout_s=30)[2])["snapshot"]
    upstreams = config["upstreams"]
    rules = [rule for route in config["routes"] for rule in route["rules"]]
    found = {
        "5,000 routes": len(rules) == routes.HOSTS * len(routes.ROUTES) + bed.grpc,
        "rate limit": all(any(each["type"] == "rate-limit" for each in rule.get("filters", ())) for rule in rules),
        "two hooks": all(len(rule.get("plugins", ())) == 2 for rule in rules),
        "outlier ejection": all(each.get("outlier") is not None for each in upstreams),
        "error-rate breaker": all(each.get("breaker", {}).get("error_ratio", 0) > 0 for each in upstreams),
        "circuit limits": all(each.get("concurrency", {}).get("max_requests", 0) > 0 for each in upstreams),
    }
    return [name for name, there in found.items() if not there]


def _plugins(bed: Bed) -> list[dict[str, Any]]:
    source = {"url": f"http://127.0.0.1:{bed.around.marketplace}/index.json"}
    publishers = [{"name": "bench", "publicKey": bed.around.plugin_key}]
    market = _object(_NEXUS_API, "NexusMarketplace", "bench", {"source": source, "publishers": publishers})
    del market["metadata"]["namespace"]
    plugins = [
        _object(_NEXUS_API, "NexusPlugin", name, {"marketplace": "bench", "order": order})
        for order, name in enumerate(("bench-tenant", "bench-stamp"))
    ]
    return [market, *plugins]


def _http_route(number: int, version: int) -> dict[str, Any]:
    host = routes.host_name(number)
    spec = {
        "parentRefs": [{"name": "edge"}],
        "hostnames": [host],
        "rules": [_rule(route, version) for route in routes.ROUTES],
    }
    return _object(_GATEWAY_API, "HTTPRoute", f"svc-{number:03}", spec)


def _rule(route: routes.Route, version: int) -> dict[str, Any]:
    path = f"{route.path}-next" if route.name == "exact-0" and version % 2 else route.path
    match: dict[str, Any] = {"path": {"type": "Exact" if route.kind == "exact" else "PathPrefix", "value": path}}
    if route.method:
        match["method"] = route.method
    if route.header:
        match["headers"] = [{"name": route.header[0], "value": route.header[1]}]
    backend = {"group": "nexus.dev", "kind": "NexusService", "name": "backend"}
    return {"matches": [match], "backendRefs": [backend]}


def _object(version: str, kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": dict(spec)}


def _write(path: Path, objects: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(yaml.dump_all(objects, Dumper=yaml.CSafeDumper))
