"""What else is kept of Secrets and ConfigMaps: what NexusPlugins and NexusMarketplaces name of them, by those names alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from nexus_core.model.plugins import LOGIN_KEYS, NexusMarketplaceSpec, NexusPluginSpec
from nexus_core.model.resources import Resource

Named = Mapping[tuple[str, str, str], frozenset[str] | None]
"""By kind, namespace and name: the keys to keep beside those that are kept anyway; None for all of them."""

NOTHING: Named = MappingProxyType({})


def named_by(resources: Iterable[Resource]) -> Named:
    """Return what these resources name: the Secrets of plugins and marketplaces, and the ConfigMaps that these are in."""
    keys: dict[tuple[str, str, str], set[str]] = {}
    whole: dict[tuple[str, str, str], frozenset[str] | None] = {}
    for resource in resources:
        spec = resource.spec
        if isinstance(spec, NexusPluginSpec):
            for ref in (*(c.secret_ref for c in spec.config_from), *(s.secret_ref for s in spec.grants.secrets)):
                keys.setdefault(("Secret", resource.ref.namespace, ref.name), set()).add(ref.key)
        elif isinstance(spec, NexusMarketplaceSpec):
            if (place := spec.source.config_map) is not None:
                whole["ConfigMap", place.namespace, place.name] = None
            if (login := spec.source.secret_ref) is not None:
                keys.setdefault(("Secret", login.namespace, login.name), set()).update(LOGIN_KEYS)
    return MappingProxyType({**{at: frozenset(names) for at, names in keys.items()}, **whole})
