"""Where clients reach a Gateway: what its Service says."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nexus_operator.world.inventory import Object

LIMIT = 16
"""The CRD's limit of `status.addresses` of a Gateway."""


@dataclass(frozen=True, slots=True)
class Address:
    """type, value: as in the status of a Gateway."""

    type: Literal["IPAddress", "Hostname"]
    value: str


def addresses_of(service: Object | None) -> tuple[Address, ...]:
    """Return the addresses of a Service, best first; none while its load balancer has not given any.

    What a load balancer gave and what was set by hand come first. A Service of another type is reached by its cluster IPs, inside
    the cluster at least: which of the nodes' addresses clients may use is nothing that the API server knows.
    """
    if service is None:
        return ()
    spec: Mapping[str, Any] = service.get("spec") or {}
    status: Mapping[str, Any] = service.get("status") or {}
    found: list[str] = []
    for ingress in (status.get("loadBalancer") or {}).get("ingress") or ():
        found += [str(value) for value in (ingress.get("ip"), ingress.get("hostname")) if value]
    found += [str(value) for value in spec.get("externalIPs") or ()]
    if spec.get("type") != "LoadBalancer":
        found += [str(ip) for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip not in (None, "", "None")]
    return tuple(Address("IPAddress" if is_ip(value) else "Hostname", value) for value in dict.fromkeys(found))[:LIMIT]


def is_ip(value: str) -> bool:
    """Return whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def url_of(address: str, port: int, scheme: str = "http") -> str:
    """Return the base of URLs at an address; the scheme's own port is left out."""
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}" if port == {"http": 80, "https": 443}[scheme] else f"{scheme}://{host}:{port}"
