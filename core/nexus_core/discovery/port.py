"""The contract that every discovery adapter keeps; `tests/conformance/discovery` runs it against all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

TLS_META = "nexus-tls"
"""In an endpoint's meta: `true` where a policy has the gateway speak TLS to it."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One running instance that takes requests.

    address: IP address or host name, without port. id: the instance's name in its registry; not part of its identity
    for the gateway, which is (address, port). weight: 1..65535. zone: empty when unknown. meta: what its registration
    says of it (Consul's service meta), sorted pairs; subsets choose by it. draining: takes no new requests, but what it
    has is not failing (Consul's maintenance mode, a terminating pod).
    """

    address: str
    port: int
    id: str = ""
    weight: int = 1
    zone: str = ""
    meta: tuple[tuple[str, str], ...] = ()
    draining: bool = False

    @property
    def authority(self) -> str:
        """`address:port`, an IPv6 address in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """What the registry says of one service.

    name: as `service_name` makes it. meta: string to string; Nexus writes `nexus-type` (http, graphql, …),
    `nexus-openapi` (path of the OpenAPI document) and `nexus-namespace`.
    """

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


class Discovery(Protocol):
    """Finds the live endpoints of services. Every method may be called from many tasks at once."""

    def watch(self, service: str, *, tag: str = "") -> AsyncIterator[tuple[Endpoint, ...]]:
        """Yield the live endpoints (sorted, no duplicates of address and port) at once, then after each change.

        Never ends by itself. While the registry cannot be reached it yields nothing, so the last value holds;
        an unknown service yields an empty tuple.
        """
        ...

    async def resolve(self, service: str, *, tag: str = "") -> tuple[Endpoint, ...]:
        """Return the live endpoints now; empty for an unknown service. Raises `ConnectionError` when the registry is away."""
        ...

    async def services(self) -> Mapping[str, ServiceEntry]:
        """Return every known service by name. Raises `ConnectionError` when the registry is away."""
        ...

    async def close(self) -> None:
        """Release sockets and tasks; watches end."""
        ...


def service_name(name: str, namespace: str) -> str:
    """Return the name a service has in every registry: `orders.shop`.

    A dot joins the two: neither part may hold one (both are DNS labels), so two services never share a name.
    """
    return f"{name}.{namespace}"
