"""Whether configurations of plugins fit their releases' schemas, where an index is at hand: before a gateway says so, in its words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.marketplace import Index
from nexus_core.model.plugins import NexusMarketplaceSpec, NexusPluginSpec
from nexus_core.problems import ObjectRef, Problem

if TYPE_CHECKING:
    from nexus_core.snapshot import PluginInstance, Snapshot

    from nexus_cli.manifests import Manifests

REASON = "PluginConfigInvalid"
_FIX = "Correct it, or choose a version of the plugin that takes it; `nexus plugin describe` shows the schema."


def cache_beside(path: Path) -> Path:
    """Return where `nexus up` keeps what it knows of marketplaces. path: of manifests."""
    return (path if path.is_dir() else path.parent) / ".nexus" / "marketplaces"


def index_at_hand(name: str, spec: NexusMarketplaceSpec, caches: Iterable[Path]) -> Index | None:
    """Return a marketplace's index without asking anyone: the one that ships with Nexus, or the last that was trusted here."""
    from nexus_gateway.edge.sources.indexes import state_of
    from nexus_marketplace import sources
    from nexus_marketplace.troubles import MarketplaceTrouble
    from nexus_marketplace.trust import Followed, pins_of

    from nexus_cli.offline import bundled_index

    if spec.source.bundled:
        return bundled_index()
    try:
        source = sources.open(spec.source)
    except MarketplaceTrouble:
        return None  # in a ConfigMap, which only a cluster has
    for cache in caches:
        kept = Followed(source, pins_of(spec), state_of(cache, name, spec.source)).last()
        if kept is not None:
            return kept[0]
    return None


def find_wrong(manifests: Manifests, snapshot: Snapshot) -> list[Problem]:
    """Return what is wrong with configurations. snapshot: of these manifests; those that are not in it, or lack one, have none yet."""
    instances = {each.source: each for each in snapshot.plugins if each.lacking is None}
    found = []
    for resource, _ in manifests.resources:
        instance = instances.get(str(resource.ref))
        if instance is not None and isinstance(resource.spec, NexusPluginSpec):
            problem = _check(instance, resource.ref, resource.spec)
            if problem is not None:
                found.append(problem)
    return found


def find_wrong_in(ref: ObjectRef, spec: NexusPluginSpec, index: Index) -> Problem | None:
    """Return what is wrong with the configuration of a plugin that is not installed yet, for the release that it would get."""
    from nexus_core.hooks import API_VERSION
    from nexus_core.marketplace.locks import encode_config
    from nexus_core.marketplace.updates import contains, within
    from nexus_core.snapshot import PluginInstance

    listed = within(index.by_name.get(spec.plugin or ref.name, ()), spec.version, spec.channel)
    usable = [release for release in listed if contains(release.api, API_VERSION)]
    if not usable:
        return None
    return _check(
        PluginInstance(
            id=f"{ref.namespace}/{ref.name}",
            source=str(ref),
            release=usable[0],
            public_key="",
            config=encode_config(spec.config),
        ),
        ref,
        spec,
    )


def _check(instance: PluginInstance, ref: ObjectRef, spec: NexusPluginSpec) -> Problem | None:
    from nexus_hosting.configuring import read_config
    from nexus_marketplace.rejections import PluginRejected

    try:
        read_config(instance, withheld=tuple(entry.path for entry in spec.config_from))
    except PluginRejected as rejected:
        path, colon, what = rejected.message.partition(": ")
        if not colon or not path.startswith(".spec.config"):
            path, what = ".spec.config", rejected.message
        return Problem(ref, path, REASON, what if what.endswith(".") else f"{what}.", _FIX)
    return None
