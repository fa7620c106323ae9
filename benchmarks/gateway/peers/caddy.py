"""Caddy as a plain reverse proxy, with keep-alive to the backends and without its admin endpoint."""

from __future__ import annotations

import json

from processes import Command

from peers.beds import Bed, find_program


def plain(bed: Bed) -> Command:
    """Return Debian's Caddy. GOMAXPROCS is the number of workers: more threads than cores would cost it."""
    bed.work.mkdir(parents=True, exist_ok=True)
    upstreams = [{"dial": f"127.0.0.1:{port}"} for port in bed.around.backends]
    transport = {"protocol": "http", "keep_alive": {"max_idle_conns": 1024, "max_idle_conns_per_host": 256}}
    handler = {
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "load_balancing": {"selection_policy": {"policy": "least_conn"}},
        "transport": transport,
    }
    everything = [{"handle": [handler]}]
    off = {"disable": True}
    servers: dict[str, object] = {
        "plain": {"listen": [f"127.0.0.1:{bed.port}"], "routes": everything, "automatic_https": off}
    }
    apps: dict[str, object] = {"http": {"servers": servers}}
    if bed.tls_port:
        servers["tls"] = {
            "listen": [f"127.0.0.1:{bed.tls_port}"],
            "routes": everything,
            "automatic_https": off,
            "protocols": ["h1"],
            "tls_connection_policies": [{}],
        }
        files = [{"certificate": str(bed.around.certificate), "key": str(bed.around.key)}]
        apps["tls"] = {"certificates": {"load_files": files}}
    config = bed.work / "caddy.json"
    quiet = {"logs": {"default": {"level": "ERROR"}}}
    config.write_text(json.dumps({"admin": {"disabled": True}, "logging": quiet, "apps": apps}))
    environment = {"GOMAXPROCS": str(bed.workers), "XDG_DATA_HOME": str(bed.work), "XDG_CONFIG_HOME": str(bed.work)}
    return Command((find_program("caddy"), "run", "--config", str(config)), environment)
