"""The NexusServices that plugins may call: those of their own namespace, and of others as those permit.

What was granted and is no longer permitted is gone at once, from what runs and from what is tried.
"""

from __future__ import annotations

import msgspec

from nexus_core.model.kinds import GROUP
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot.plugins import PluginInstance
from nexus_core.translate.references import PLUGINS, Grants
from nexus_core.translate.worlds import World

_YAML = (
    "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: plugins-of-{owner}, namespace: {namespace}}}, "
    "spec: {{from: [{{group: nexus.dev, kind: NexusPlugin, namespace: {owner}}}], "
    "to: [{{group: nexus.dev, kind: NexusService, name: {name}}}]}}}}"
)


def permit(world: World, instances: dict[str, PluginInstance]) -> list[Problem]:
    """Take from the instances the services that other namespaces do not let them call; return what is wrong.

    `*` stays as it is: it never is more than the services of the plugin's own namespace.
    """
    grants = Grants(world)
    problems: list[Problem] = []
    for plugin, instance in instances.items():
        owner = ObjectRef.parse(instance.source)
        named = {
            *instance.granted.services,
            *(instance.candidate.instance.granted.services if instance.candidate else ()),
        }
        refused = sorted(each for each in named if each != "*" and not _permits(grants, owner, each))
        if refused:
            instances[plugin] = _without(instance, frozenset(refused))
            problems.extend(_problem(owner, each) for each in refused)
    return problems


def _permits(grants: Grants, owner: ObjectRef, service: str) -> bool:
    namespace, _, name = service.partition("/")
    return grants.permit(PLUGINS, owner.namespace, GROUP, "NexusService", namespace, name)


def _without(instance: PluginInstance, refused: frozenset[str]) -> PluginInstance:
    left = tuple(each for each in instance.granted.services if each not in refused)
    granted = msgspec.structs.replace(instance.granted, services=left)
    candidate = instance.candidate
    if candidate is not None:
        candidate = msgspec.structs.replace(candidate, instance=_without(candidate.instance, refused))
    return msgspec.structs.replace(instance, granted=granted, candidate=candidate)


def _problem(owner: ObjectRef, service: str) -> Problem:
    namespace, _, name = service.partition("/")
    what = f'Namespace "{namespace}" does not permit NexusPlugins of "{owner.namespace}" to call NexusService "{name}".'
    fix = f"Until it does, calls there are refused. Apply: {_YAML.format(owner=owner.namespace, namespace=namespace, name=name)}"
    return Problem(owner, ".spec.grants.services", "PluginNotPermitted", what, fix)
