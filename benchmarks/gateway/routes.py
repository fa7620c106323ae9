"""The route table of every proxy that routes: 500 hosts with ten routes each, as values. Peers write it in their own words.

The ten: three exact paths, four prefixes, and three routes on `/items` of which one asks for a header, one for a method
and one for nothing, so that a request for `/items/7` meets all three and only the last one takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HOSTS = 500
DOMAIN = "bench.example"
HOST = f"svc-250.{DOMAIN}"
"""What the repeated request asks for."""
PATH = "/items/7"
TIER = ("x-tier", "gold")
CALLS_HOST = f"calls.{DOMAIN}"
"""A host of its own, for gRPC alone."""
CALLS_SERVICE = "bench.Items"
CALLS_PATH = f"/{CALLS_SERVICE}/Get"


@dataclass(frozen=True, slots=True)
class Route:
    """One route of a host. A prefix covers whole segments. method, header: empty and None for any."""

    name: str
    kind: Literal["exact", "prefix"]
    path: str
    method: str = ""
    header: tuple[str, str] | None = None


ROUTES = (
    *(Route(f"exact-{n}", "exact", f"/reports/{n}/summary") for n in range(3)),
    *(Route(f"version-{n}", "prefix", f"/api/v{n}") for n in range(1, 5)),
    Route("gold", "prefix", "/items", header=TIER),
    Route("create", "prefix", "/items", method="POST"),
    Route("items", "prefix", "/items"),
)


def host_name(number: int) -> str:
    """Return the host of a number from 0 to HOSTS - 1."""
    return f"svc-{number:03}.{DOMAIN}"
