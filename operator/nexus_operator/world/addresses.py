"""Where clients reach the gateways: the address of the Service in front of them."""

from __future__ import annotations

from urllib.parse import urlsplit

from nexus_operator.settings import Settings
from nexus_operator.world.inventory import Inventory


def gateway_addresses(inventory: Inventory, settings: Settings) -> tuple[str, ...]:
    """Return IP addresses and host names, best first; empty when there is none yet.

    The load balancer's come first. A Service without one is reached inside the cluster by its cluster IP. Without any
    gateway Service, the host of the configured URL is what is known.
    """
    found: list[str] = []
    if settings.gateway_service_key is not None:
        service = inventory.get("Service", *settings.gateway_service_key)
        spec, status = (service or {}).get("spec") or {}, (service or {}).get("status") or {}
        for ingress in (status.get("loadBalancer") or {}).get("ingress") or ():
            found += [str(value) for value in (ingress.get("ip"), ingress.get("hostname")) if value]
        if spec.get("type") != "LoadBalancer" and spec.get("clusterIP") not in (None, "", "None"):
            found.append(str(spec["clusterIP"]))
    if not found and settings.gateway_url:
        found += [str(urlsplit(settings.gateway_url).hostname or "")]
    return tuple(dict.fromkeys(address for address in found if address))


def base_url(inventory: Inventory, settings: Settings, addresses: tuple[str, ...]) -> str:
    """Return what paths are appended to: the configured URL, else `http://address[:port]`, else an empty string."""
    if settings.gateway_url:
        return settings.gateway_url
    if not addresses:
        return ""
    service = inventory.get("Service", *(settings.gateway_service_key or ("", ""))) or {}
    port = next((int(p["port"]) for p in (service.get("spec") or {}).get("ports") or ()), 80)
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"
