"""Bundles of what manifests need: `nexus plugin bundle`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_cli.errors import StepFailed, UserError

if TYPE_CHECKING:
    from nexus_core.model.plugins import NexusMarketplaceSpec
    from nexus_marketplace.bundles import Imported, Trusted

    from nexus_cli.manifests import Manifests


def export(path: Path, target: Path, pypi: str) -> list[str]:
    """Write the bundle; return lines that say what is in it. Raises what reading marketplaces raises."""
    from nexus_core.marketplace import Index
    from nexus_core.translate import translate
    from nexus_core.translate.market_access import find_accesses, find_ways
    from nexus_marketplace import bundles, durable, sources
    from nexus_marketplace.trust import Followed, pins_of

    from nexus_cli import manifests
    from nexus_cli.offline import bundled_index

    loaded = manifests.load([path])
    accesses = find_accesses(resource for resource, _ in loaded.resources)
    indexes: dict[str, Index] = {}
    followed: dict[str, Followed] = {}
    places: dict[str, sources.SourcePort] = {}
    told: list[str] = []
    with tempfile.TemporaryDirectory() as state:
        for name, spec in _marketplaces(loaded).items():
            if spec.source.bundled:
                indexes[name] = bundled_index()
                told.append(f"{name}: ships with Nexus, nothing is needed")
                continue
            places[name] = sources.open(spec.source, access=accesses.get(name))
            followed[name] = Followed(places[name], pins_of(spec), Path(state) / name)
            indexes[name], _ = followed[name].update()
        if not followed:
            raise StepFailed(
                f"{path} names no marketplace but the one that ships with Nexus: there is nothing to take along."
            )
        made = translate([resource for resource, _ in loaded.resources], previous=None, indexes=indexes)
        for problem in made.problems:
            if problem.where.kind in ("NexusPlugin", "NexusMarketplace"):
                raise StepFailed(f"{problem}")
        ways = find_ways((spec.source, accesses.get(name)) for name, spec in _marketplaces(loaded).items())
        packed: dict[str, tuple[Trusted, dict[str, bytes]]] = {}
        for name, spec in _marketplaces(loaded).items():
            if name not in followed:
                continue
            own = [each for each in made.snapshot.plugins if each.base_url and each.base_url == indexes[name].origin]
            files = asyncio.run(bundles.collect(places[name], followed[name], own, Path(state) / "cache", pypi, ways))
            packed[name] = (_trusted(spec), files)
            wheels = sum(each.startswith("wheels/") for each in files)
            releases = (
                ", ".join(f"{each.release.name} {each.release.version}" for each in own) or "no plugin of it is used"
            )
            told.append(f"{name}: {releases}; {wheels} wheels")
        data = bundles.pack(packed)
        durable.write(target, data)
    return [*told, f"{target}: {len(data)} bytes. There: nexus plugin bundle import {target.name} --to DIR"]


def restore(file: Path, target: Path, path: Path | None) -> list[Imported]:
    """Verify a bundle and write its marketplaces. path: manifests whose keys count; None for those of the bundle."""
    from nexus_marketplace import bundles

    from nexus_cli import manifests

    trusted: dict[str, Trusted] = {}
    if path is not None:
        trusted = {name: _trusted(spec) for name, spec in _marketplaces(manifests.load([path])).items()}
    with file.open("rb") as opened:
        head, files = bundles.unpack(opened)
    if path is not None:
        strange = sorted(head.marketplaces.keys() - trusted.keys())
        if strange:
            raise UserError(
                f"{file} holds {', '.join(strange)}, and {path} has no NexusMarketplace of that name. Add it, with its keys."
            )
    with tempfile.TemporaryDirectory() as state:
        return bundles.restore(head, files, target, Path(state), trusted)


def _marketplaces(loaded: Manifests) -> dict[str, NexusMarketplaceSpec]:
    from nexus_core.model.plugins import NexusMarketplaceSpec

    found = {
        resource.ref.name: resource.spec
        for resource, _ in loaded.resources
        if isinstance(resource.spec, NexusMarketplaceSpec)
    }
    return dict(sorted(found.items()))


def _trusted(spec: NexusMarketplaceSpec) -> Trusted:
    from nexus_marketplace.bundles import Trusted
    from nexus_marketplace.trust import pins_of

    pins = pins_of(spec)
    return Trusted(pins.keys, pins.threshold, {each.name: each.public_key for each in spec.publishers})
