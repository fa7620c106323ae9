"""Adapters of the discovery port (`nexus_core.discovery`): `consul`, `file`, `memory`."""

from __future__ import annotations

from nexus_core.discovery import Discovery

from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_sdk.settings import Settings

__all__ = ["MemoryDiscovery", "choose"]


def choose(settings: Settings) -> Discovery:
    """Return the adapter the settings ask for: the file, else Consul, else an empty memory."""
    if settings.discovery_file is not None:
        from nexus_sdk.discovery.file import FileDiscovery

        return FileDiscovery(settings.discovery_file)
    if settings.consul.url is not None:
        from nexus_sdk.discovery.consul import ConsulDiscovery  # imported on demand: py-consul costs 0.05 s

        return ConsulDiscovery(settings.consul.url, token=settings.consul.token, installation=settings.consul.prefix)
    return MemoryDiscovery()
