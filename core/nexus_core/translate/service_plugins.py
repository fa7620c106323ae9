"""Which plugins run inside services: those with hooks of the service's kind, that aim at it or at its whole namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nexus_core.hooks.specs import HOOKS
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.model.services import NexusServiceSpec
from nexus_core.snapshot import PluginInstance, Snapshot

KINDS: Mapping[str, frozenset[str]] = {
    kind: frozenset(hook.name for hook in HOOKS if hook.where == kind) for kind in ("events", "graphql")
}
"""Hooks that services of a type call, by `NexusService.spec.type`."""


def service_plugins(snapshot: Snapshot, resources: Iterable[Resource]) -> dict[str, tuple[PluginInstance, ...]]:
    """Return the plugins of each service that has its own hooks, in running order, by `<namespace>/<name>`; empty ones too.

    resources: the world that the Snapshot is of.
    """
    services: dict[str, str] = {}
    targets: dict[str, frozenset[str]] = {}
    for resource in resources:
        key = f"{resource.ref.namespace}/{resource.ref.name}"
        if isinstance(resource.spec, NexusServiceSpec) and resource.spec.type in KINDS:
            services[key] = resource.spec.type
        elif isinstance(resource.spec, NexusPluginSpec):
            names = (ref.name for ref in resource.spec.target_refs if ref.kind == "NexusService")
            targets[key] = frozenset(names) if resource.spec.target_refs else frozenset({"*"})
    found: dict[str, tuple[PluginInstance, ...]] = {}
    for key, kind in sorted(services.items()):
        namespace, name = key.split("/")
        found[key] = tuple(
            sorted(
                (
                    each
                    for each in snapshot.plugins
                    if each.id.split("/")[0] == namespace
                    and not targets.get(each.id, frozenset()).isdisjoint({"*", name})
                    and not KINDS[kind].isdisjoint(each.release.hooks)
                ),
                key=lambda each: (each.order, each.id),
            )
        )
    return found
