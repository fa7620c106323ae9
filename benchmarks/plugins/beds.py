"""What is measured: Nexus with plugins on some hosts, Nexus without any, and Envoy with and without a header in Lua."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from peers import envoy
from processes import Command

HERE = Path(__file__).parent
FIVE = 5
HOSTS = {
    "unmatched": (),
    "one": ("bench-header",),
    "five": tuple(f"bench-header-{number}" for number in range(FIVE)),
    "granted": ("bench-granted",),
    "waiting": ("bench-waiting",),
    "rpc": ("bench-rpc",),
}
"""Hosts of the gateway with plugins, and the NexusPlugins on each."""


@dataclass(frozen=True, slots=True)
class Bed:
    """Ports on loopback. backend: answers everything. work: a directory of this run."""

    backend: int
    work: Path
    nexus: int
    nexus_admin: int
    bare: int
    bare_admin: int
    again: int
    again_admin: int
    envoy: int
    envoy_lua: int

    @property
    def socket(self) -> Path:
        """Of the runner."""
        return self.work / "runner.sock"


def publish(bed: Bed) -> str:
    """Build the marketplace of the benchmark's plugins. Return the publisher's public key."""
    packages = sorted(path.parent for path in (HERE / "packages").glob("*/plugin.yaml"))
    key = bed.work / "publisher.pem"
    argv = (
        "marketplace",
        "build",
        *map(str, packages),
        "--key",
        str(key),
        "--publisher",
        "bench",
        "--to",
        str(bed.work / "market"),
    )
    done = subprocess.run((_nexus(), "-o", "json", *argv), check=True, capture_output=True, text=True)
    found: str = json.loads(done.stdout)["publicKey"]
    return found


def nexus(bed: Bed, key: str) -> Command:
    """Return the gateway with all plugins installed, each on hosts of its own."""
    manifests = bed.work / "with"
    market = {"source": {"directory": str(bed.work / "market")}, "publishers": [{"name": "bench", "publicKey": key}]}
    objects = [_gateway(), _service(bed), _object("nexus.dev/v1alpha1", "NexusMarketplace", "bench", market)]
    for host, plugins in HOSTS.items():
        objects.append(_route(host))
        for name in plugins:
            spec: dict[str, Any] = {"marketplace": "bench", "targetRefs": [{"kind": "HTTPRoute", "name": host}]}
            spec |= _what(name, bed)
            objects.append(_object("nexus.dev/v1alpha1", "NexusPlugin", name, spec))
    return _start(bed, manifests, objects, bed.nexus, bed.nexus_admin)


def _what(name: str, bed: Bed) -> dict[str, Any]:
    if name == "bench-rpc":
        return {"plugin": name, "config": {"socket": str(bed.socket)}, "grants": {"modules": ["socket"]}}
    if name == "bench-granted":
        return {"plugin": name, "grants": {"headers": {"read": [], "write": ["x-bench"]}}}
    if name == "bench-waiting":
        return {"plugin": name}
    return {"plugin": "bench-header", "config": {"name": name.replace("bench-header", "x-bench")}}


def bare(bed: Bed, *, again: bool = False) -> Command:
    """Return the same gateway, and no plugin installed. again: a second one, to see by how much two equal processes differ."""
    port, admin = (bed.again, bed.again_admin) if again else (bed.bare, bed.bare_admin)
    manifests = bed.work / ("without-again" if again else "without")
    return _start(bed, manifests, [_gateway(), _service(bed), _route("unmatched")], port, admin)


def envoys(bed: Bed) -> Command:
    """Return one Envoy with two listeners: plain, and with the header set by a Lua filter."""
    code = 'function envoy_on_request(handle)\n  handle:headers():replace("x-bench", "done")\nend\n'
    lua = envoy._filter("lua", "lua.v3.Lua", default_source_code={"inline_string": code})
    router = envoy._filter("router", "router.v3.Router")
    table = {
        "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]}
        ]
    }
    listeners = []
    for name, port, filters in (("plain", bed.envoy, [router]), ("lua", bed.envoy_lua, [lua, router])):
        manager = {**envoy._manager(), "route_config": table, "http_filters": filters}
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        listeners.append({"name": name, "address": envoy._address(port), "filter_chains": [chain]})
    resources = {"listeners": listeners, "clusters": [envoy._cluster("b", (bed.backend,))]}
    config = bed.work / "envoy.json"
    config.write_text(json.dumps({"node": {"id": "b", "cluster": "b"}, "static_resources": resources}))
    return Command((envoy.program(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"))


def runner(bed: Bed) -> Command:
    """Return the process that answers `bench_rpc`."""
    return Command((sys.executable, str(HERE / "runner.py"), str(bed.socket)))


def _nexus() -> str:
    # Another build beside this one can be measured, as in `gateway/peers/nexus.py`.
    return os.environ.get("NEXUS_BENCH_NEXUS") or str(Path(sys.executable).parent / "nexus")


def _start(bed: Bed, manifests: Path, objects: list[dict[str, Any]], port: int, admin: int) -> Command:
    manifests.mkdir(parents=True)
    (manifests / "all.yaml").write_text(yaml.safe_dump_all(objects))
    env = {
        "NEXUS_GATEWAY_ADMIN": f"127.0.0.1:{admin}",
        "NEXUS_PLUGIN_CACHE": str(bed.work / f"cache-{port}"),
        "NEXUS_LOG_LEVEL": "WARNING",
        "NEXUS_TRACE_RATIO": "0",
    }
    return Command((_nexus(), "gateway", "-f", str(manifests), "--listen", f"127.0.0.1:{port}"), env)


def _object(api: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name} if kind == "NexusMarketplace" else {"name": name, "namespace": "bench"}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


def _gateway() -> dict[str, Any]:
    listeners = [{"name": "http", "port": 80, "protocol": "HTTP"}]
    return _object(
        "gateway.networking.k8s.io/v1", "Gateway", "edge", {"gatewayClassName": "nexus", "listeners": listeners}
    )


def _service(bed: Bed) -> dict[str, Any]:
    spec = {"type": "http", "backend": {"addresses": [f"127.0.0.1:{bed.backend}"]}}
    return _object("nexus.dev/v1alpha1", "NexusService", "items", spec)


def _route(host: str) -> dict[str, Any]:
    backends = [{"group": "nexus.dev", "kind": "NexusService", "name": "items"}]
    spec = {
        "parentRefs": [{"name": "edge"}],
        "hostnames": [f"{host}.bench.example"],
        "rules": [{"backendRefs": backends}],
    }
    return _object("gateway.networking.k8s.io/v1", "HTTPRoute", host, spec)
