"""All proxies by name, in the order in which they take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import routes
from processes import Command, Server, Unusable, fetch

from peers import caddy, envoy, haproxy, nexus, nginx, plain_aiohttp
from peers.beds import Bed


@dataclass(frozen=True, slots=True)
class Peer:
    """command: how it is started. does: one line for reports. full: it has routes, limits, tracing and hooks.

    lacks: tells which of the features it was asked for a running one does not have.
    changes: writes two versions of a file of routes; returns the file that is live, the even and the odd version.
    """

    name: str
    does: str
    command: Callable[[Bed], Command]
    full: bool = False
    lacks: Callable[[Bed], list[str]] | None = None
    changes: Callable[[Bed], tuple[Path, Path, Path]] | None = None


REFERENCE = "envoy-full"
"""The peer that ratios are made with."""
_EVERYTHING = "5,000 routes, limit, breaker, outlier, retries, metrics, access log and traces of 1 %, two hooks"
PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "nexus", f"{_EVERYTHING} (Python plugins)", nexus.full, full=True, lacks=nexus.lacks, changes=nexus.changes
        ),
        Peer("envoy-full", f"{_EVERYTHING} (native filters)", envoy.full, full=True, changes=envoy.changes),
        Peer("envoy-lua", f"{_EVERYTHING} (Lua filters)", envoy.full_lua, full=True, changes=envoy.changes),
        Peer("envoy", "one route, no features", envoy.plain),
        Peer("nginx", "one route, no features", nginx.plain),
        Peer("haproxy", "one route, no features", haproxy.plain),
        Peer("caddy", "one route, no features", caddy.plain),
        Peer("aiohttp", "the plainest proxy in Python", plain_aiohttp.plain),
    )
}
DEFAULT = ("nexus", "envoy-full", "envoy", "nginx", "haproxy", "caddy", "aiohttp")


def check(peer: Peer, server: Server, bed: Bed) -> None:
    """Ask for a few things, so that no proxy is measured at work it does not do. Raises Unusable.

    A full one must refuse an unknown host, tell header and method routes apart from unknown paths, run both hooks, and
    not pass on what it should not.
    """

    def want(held: bool, what: str) -> None:
        if not held:
            raise Unusable(f"{peer.name} does not do its work: {what}. Its log: {server.log}")

    status, headers, body = fetch(bed.port, routes.HOST, routes.PATH)
    want(status == 200 and body.decode() == nginx.REPLY, f"{routes.PATH} gives {status} {body[:80]!r}")
    want(len(fetch(bed.port, routes.HOST, "/items/body/1m")[2]) == nginx.BODIES["1m"], "a body of 1 MB is cut")
    if bed.tls_port:
        found = fetch(bed.tls_port, routes.HOST, routes.PATH, tls=True)
        want(found[0] == 200 and found[2].decode() == nginx.REPLY, f"{routes.PATH} over TLS gives {found[0]}")
    if not peer.full:
        return
    want(headers.get("x-bench-proxy") == "done", "the response hook did not run")
    refused = fetch(bed.port, routes.HOST, routes.PATH, {"x-tenant": "blocked-1"})
    want(refused[0] == 403, f"the request hook did not run: a blocked tenant gets {refused[0]}")
    _, _, seen = fetch(bed.port, routes.HOST, nginx.SEEN, {"x-tenant": "tenant-1"})
    want(b'"traced":"00-' in seen, f"no trace context went upstream: the backend saw {seen!r}")
    want(fetch(bed.port, f"nobody.{routes.DOMAIN}", routes.PATH)[0] == 404, "an unknown host is served")
    want(fetch(bed.port, routes.HOST, "/nowhere")[0] == 404, "an unknown path is served")
    last = routes.host_name(routes.HOSTS - 1)
    want(fetch(bed.port, last, "/reports/2/summary")[0] == 200, "the last host's exact path is not served")
    want(fetch(bed.port, last, "/reports/2/summary/x")[0] == 404, "an exact path is served as a prefix")
