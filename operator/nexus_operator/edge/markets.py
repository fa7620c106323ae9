"""NexusMarketplaces as they are to be followed, and the ConfigMaps that some are in."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping

from nexus_core.model.plugins import NexusMarketplaceSpec
from nexus_core.model.resources import Resource
from nexus_core.translate.market_access import find_accesses

from nexus_operator.edge.indexes import TRUST_ANEW, Wanted, parse_versions
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import CONFIG_MAP, NEXUS_GROUP, NEXUS_MARKETPLACE

REFRESH = f"{NEXUS_GROUP}/refresh"
"""Annotation: with another value, whatever it is, the marketplace is looked at now."""


def wanted_of(resources: Iterable[Resource], inventory: Inventory) -> dict[str, Wanted]:
    """Return the marketplaces to follow, by name: those that can be read."""
    found: dict[str, Wanted] = {}
    world = tuple(resources)
    accesses = find_accesses(world)
    for resource in world:
        if resource.ref.kind != NEXUS_MARKETPLACE.kind or not isinstance(resource.spec, NexusMarketplaceSpec):
            continue
        obj = inventory.get(NEXUS_MARKETPLACE.kind, "", resource.ref.name) or {}
        refresh = resource.annotations.get(REFRESH, "")
        place = resource.spec.source.config_map
        if place is not None:
            held = inventory.get(CONFIG_MAP.kind, place.namespace, place.name)
            refresh = f"{refresh} {held['metadata'].get('resourceVersion') if held is not None else ''}"
        seen = (obj.get("status") or {}).get("metadata") or {}
        # What the status holds of before the annotation had this value is what is to be forgotten.
        seen_anew = str(seen.get("anew") or "")
        said = resource.annotations.get(TRUST_ANEW, "")
        anew = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16] if said else seen_anew
        found[resource.ref.name] = Wanted(
            resource.spec,
            uid=str((obj.get("metadata") or {}).get("uid") or ""),
            refresh=refresh,
            anew=anew,
            floor=parse_versions(seen) if anew == seen_anew else None,
            access=accesses.get(resource.ref.name),
        )
    return found


def read_config_map(inventory: Inventory, namespace: str, name: str) -> Mapping[str, bytes | str] | None:
    """Return what a ConfigMap holds, `binaryData` decoded; None when there is none."""
    held = inventory.get(CONFIG_MAP.kind, namespace, name)
    if held is None:
        return None
    found: dict[str, bytes | str] = dict(held.get("data") or {})
    for key, text in (held.get("binaryData") or {}).items():
        try:
            found[key] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue  # the API server takes none such
    return found
