"""What the proxy has to do, derived from Services and EndpointSlices. Pure: objects in, tables out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nexus_testbed import places
from nexus_testbed.api import Object

Key = tuple[str, str]
"""(namespace, name) of a Service."""
Address = tuple[str, int]

DOMAIN = "cluster.local"
POOL = [str(ip) for ip in ipaddress.ip_network(places.LOADBALANCER_CIDR).hosts()]


class Binding(NamedTuple):
    """Where the proxy listens. protocol: TCP or UDP."""

    protocol: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where connections to a listener go: one port of one Service."""

    service: Key
    port: str


@dataclass(slots=True)
class World:
    """All Services and EndpointSlices, as last seen."""

    services: dict[Key, Object] = field(default_factory=dict)
    slices: dict[Key, Object] = field(default_factory=dict)
    _of_service: dict[Key, list[Object]] = field(default_factory=dict)

    def index(self) -> None:
        """Sort the slices by their Service; call after every change of `slices`."""
        self._of_service = {}
        for item in self.slices.values():
            if (item.get("addressType") or "IPv4") != "IPv4":
                continue
            meta = item["metadata"]
            if name := (meta.get("labels") or {}).get("kubernetes.io/service-name"):
                self._of_service.setdefault((meta["namespace"], name), []).append(item)

    def endpoints(self, target: Target) -> list[Address]:
        """Return the ready addresses behind a Service port (terminating ones are not ready)."""
        found: set[Address] = set()
        for item in self._of_service.get(target.service, ()):
            for port in item.get("ports") or ():
                if (port.get("name") or "") != target.port or not port.get("port"):
                    continue
                for endpoint in item.get("endpoints") or ():
                    if (endpoint.get("conditions") or {}).get("ready") is not False:
                        found.update((address, port["port"]) for address in endpoint["addresses"])
        return sorted(found)

    def loadbalancers(self) -> dict[Key, str | None]:
        """Return the address of each LoadBalancer Service, None where it stays without one.

        One that asks for an address (`spec.loadBalancerIP`) gets this one or none: none if it is not in the pool, or if
        another Service has it. The others keep what they have, or get the lowest address that is free and not asked for.
        """
        wanted = {
            key: s
            for key, s in sorted(
                self.services.items(), key=lambda item: (item[1]["metadata"].get("creationTimestamp", ""), item[0])
            )
            if s["spec"].get("type") == "LoadBalancer" and not s["spec"].get("loadBalancerClass")
        }
        asked = {key: s["spec"]["loadBalancerIP"] for key, s in wanted.items() if s["spec"].get("loadBalancerIP")}
        taken: dict[str, Key] = {}
        for key, service in wanted.items():  # those that have one come first, whatever their age
            for address in ingress_of(service)[:1]:
                if address in POOL and asked.get(key, address) == address:
                    taken.setdefault(address, key)
        for key, address in asked.items():
            if address in POOL:
                taken.setdefault(address, key)
        placed = {key: address for address, key in taken.items()}
        free = iter([address for address in POOL if address not in taken and address not in asked.values()])
        return {key: placed[key] if key in placed else None if key in asked else next(free, None) for key in wanted}

    def listeners(self) -> dict[Binding, Target]:
        """Return every address to listen on. kube-apiserver and cluster DNS have their addresses to themselves."""
        balancers = self.loadbalancers()
        table: dict[Binding, Target] = {}
        for key, service in self.services.items():
            spec = service["spec"]
            if spec.get("type") == "ExternalName":
                continue
            addresses = [ip for ip in spec.get("clusterIPs") or () if ip != "None" and ":" not in ip]
            if (balancer := balancers.get(key)) is not None:
                addresses.append(balancer)
            for port in spec.get("ports") or ():
                protocol = port.get("protocol", "TCP")
                if protocol not in ("TCP", "UDP"):
                    continue
                target = Target(key, port.get("name") or "")
                for address in addresses:
                    if address not in (places.API_IP, places.DNS_IP):
                        table[Binding(protocol, address, port["port"])] = target
                if port.get("nodePort"):
                    table[Binding(protocol, places.NODE_IP, port["nodePort"])] = target
        return table

    def find_name(self, name: str) -> list[str] | None:
        """Return the addresses of `<service>.<namespace>.svc.cluster.local` (or of `<hostname>.<service>...`)."""
        parts = name.removesuffix(f".svc.{DOMAIN}").split(".")
        if not name.endswith(f".svc.{DOMAIN}") or len(parts) not in (2, 3):
            return None
        *host, service_name, namespace = parts
        service = self.services.get((namespace, service_name))
        if service is None:
            return None
        cluster_ip = service["spec"].get("clusterIP")
        if cluster_ip not in (None, "", "None"):
            return [str(cluster_ip)] if not host else None
        addresses = [
            address
            for item in self._of_service.get((namespace, service_name), ())
            for endpoint in item.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready") is not False
            and (not host or endpoint.get("hostname") == host[0])
            for address in endpoint["addresses"]
        ]
        return sorted(set(addresses)) if addresses or not host else None


def ingress_of(service: Mapping[str, object]) -> list[str]:
    """Return the load balancer addresses in a Service's status."""
    status = service.get("status")
    balancer = status.get("loadBalancer") if isinstance(status, dict) else None
    return [entry["ip"] for entry in (balancer or {}).get("ingress") or () if entry.get("ip")]


def key_of(item: Mapping[str, Mapping[str, str]]) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def replace_all(table: dict[Key, Object], items: Iterable[Object]) -> None:
    """Make the table hold exactly these objects."""
    table.clear()
    table.update({key_of(item): item for item in items})
