"""Tells each service in Consul which plugins run in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from nexus_core.snapshot import PluginInstance

from nexus_operator.edge.consul import ConsulApi

log = logging.getLogger(__name__)


class ServiceLists:
    """The lists of one installation, at `<prefix>/services/<namespace>/<name>/plugins`: JSON, in running order."""

    def __init__(self, consul: ConsulApi, prefix: str) -> None:
        self._consul = consul
        self._head = f"{prefix}/services/"

    async def sync(self, wanted: Mapping[str, tuple[PluginInstance, ...]]) -> None:
        """Make the lists what they should be. wanted: by `<namespace>/<name>`; an empty one is none. Raises ConsulAway."""
        lists = {
            f"{self._head}{service}/plugins": msgspec.json.encode(plugins)
            for service, plugins in wanted.items()
            if plugins
        }
        listing = await self._consul.list(self._head)
        held = {entry.key: entry for entry in listing.entries if entry.key.endswith("/plugins")}
        for key, value in sorted(lists.items()):
            entry = held.get(key)
            if entry is not None and entry.value == value:
                continue
            if await self._consul.put_if(key, value, entry.modify_index if entry is not None else 0):
                log.info("%s is written", key)
            else:
                # Somebody else wrote meanwhile: who leads by now. The next round looks again.
                log.warning("%s changed while it was being written", key)
        for key in sorted(held.keys() - lists.keys()):
            await self._consul.delete(key)
