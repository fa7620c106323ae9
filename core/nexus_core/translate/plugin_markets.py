"""NexusMarketplaces as the releases that they offer to this release of Nexus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from packaging.version import InvalidVersion, Version

from nexus_core.hooks import API_VERSION
from nexus_core.marketplace import Index
from nexus_core.marketplace.addresses import directory_url, public_url
from nexus_core.marketplace.searching import Shelves
from nexus_core.marketplace.updates import contains
from nexus_core.model.plugins import NexusMarketplaceSpec, NexusPluginSpec, Source
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot.plugins import PluginInstance, Release
from nexus_core.translate.memory import Memory
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.worlds import World

UNLISTED = frozenset({"PluginNotFound", "PluginVersionNotFound"})
"""Reasons of problems that a newer index may take away."""


@dataclass(frozen=True)
class Market:
    """listed: releases by plugin, highest first. usable: those of them that work with this API and are of a publisher in keys (public
    keys by name). lost: the index could not be read, and listed is what runs of it.
    """

    name: str
    keys: Mapping[str, str]
    base_url: str
    listed: Mapping[str, tuple[Release, ...]]
    usable: Mapping[str, tuple[Release, ...]]
    lost: bool = False

    def is_usable(self, release: Release) -> bool:
        """Whether a release works with this API and is of a publisher who is trusted."""
        return release.publisher in self.keys and contains(release.api, API_VERSION)


class Markets:
    """All marketplaces that can be used, made when first asked for."""

    def __init__(self, world: World, last: LastGood, indexes: Mapping[str, Index], memory: Memory) -> None:
        self._world, self._last, self._indexes, self._memory = world, last, indexes, memory

    def find(self, ref: ObjectRef, spec: NexusPluginSpec) -> Market | Problem:
        """Return the marketplace that a plugin names, or what is wrong."""
        resource = self._world.find("NexusMarketplace", "", spec.marketplace)
        if resource is None:
            known = ", ".join(r.ref.name for r in self._world.all("NexusMarketplace")) or "none yet"
            what = f'There is no NexusMarketplace "{spec.marketplace}"; there is {known}.'
            fix = "Create it (docs/errors/marketplace-not-found.md has one to copy), or name another."
            return Problem(ref, ".spec.marketplace", "MarketplaceNotFound", what, fix)
        market = self.by_name.get(spec.marketplace)
        if market is None:
            what = f'NexusMarketplace "{spec.marketplace}" is broken.'
            return Problem(
                ref, ".spec.marketplace", "MarketplaceNotFound", what, "Mend it; its own conditions say how."
            )
        return market

    @cached_property
    def by_name(self) -> Mapping[str, Market]:
        """Those whose specs can be read."""
        found = {}
        for resource in self._world.all("NexusMarketplace"):
            spec = resource.spec
            if isinstance(spec, NexusMarketplaceSpec):
                found[resource.ref.name] = self._open(resource.ref.name, spec)
        self._memory.markets = {name: entry for name, entry in self._memory.markets.items() if name in found}
        return found

    @cached_property
    def shelves(self) -> Shelves:
        """What plugins may take as libraries."""
        return Shelves({name: market.usable for name, market in self.by_name.items()})

    def _open(self, name: str, spec: NexusMarketplaceSpec) -> Market:
        index = self._indexes.get(name)
        keys = {p.name: p.public_key for p in spec.publishers}
        base_url = base_url_of(spec.source)
        if index is None:
            listed = self._of_memory(name)
            return Market(name, keys, base_url, listed, _usable(listed, keys), lost=True)
        kept = self._memory.markets.get(name)
        if kept is None or kept[0] is not index or kept[1] != spec:
            market = Market(name, keys, base_url, index.by_name, _usable(index.by_name, keys))
            kept = self._memory.markets[name] = (index, spec, market)
        found: Market = kept[2]
        return found

    def _of_memory(self, marketplace: str) -> dict[str, tuple[Release, ...]]:
        """Return the releases that plugins of a marketplace run: with the network away, they can still be installed from what is kept."""
        found: dict[str, dict[tuple[str, str], Release]] = {}
        for resource in self._world.all("NexusPlugin"):
            if isinstance(resource.spec, NexusPluginSpec) and resource.spec.marketplace == marketplace:
                before = self._last.plugins.get(f"{resource.ref.namespace}/{resource.ref.name}")
                for instance in versions_of(before):
                    for release in (instance.release, *(library.release for library in instance.libraries)):
                        found.setdefault(release.name, {})[(release.version, release.sha256)] = release
        return {
            name: tuple(sorted(some.values(), key=lambda r: (_version(r), r.sha256), reverse=True))
            for name, some in sorted(found.items())
        }


def versions_of(instance: PluginInstance | None) -> tuple[PluginInstance, ...]:
    """Return an instance and its candidate, those that there are."""
    if instance is None:
        return ()
    return (instance,) if instance.candidate is None else (instance, instance.candidate.instance)


def base_url_of(source: Source) -> str:
    """Return against what addresses of a marketplace's releases are resolved: ends with `/`, empty for what ships with Nexus.

    It goes into the Snapshot: no name and password are in it.
    """
    if source.url is not None:
        return public_url(directory_url(source.url))
    if source.oci is not None:
        return f"oci{'+http' if source.plain_http else ''}://{source.oci}/"
    if source.directory is not None:
        return f"file://{quote(source.directory.rstrip('/'))}/"
    if source.config_map is not None:
        return f"configmap://{source.config_map.namespace}/{source.config_map.name}/"
    return ""


def _usable(listed: Mapping[str, tuple[Release, ...]], keys: Mapping[str, str]) -> Mapping[str, tuple[Release, ...]]:
    fits: dict[str, bool] = {}
    found = {}
    for name, releases in listed.items():
        some = []
        for release in releases:
            if release.api not in fits:
                fits[release.api] = contains(release.api, API_VERSION)
            if fits[release.api] and release.publisher in keys:
                some.append(release)
        if some:
            found[name] = tuple(some)
    return found


def _version(release: Release) -> Version:
    try:
        return Version(release.version)
    except InvalidVersion:
        return Version("0")
