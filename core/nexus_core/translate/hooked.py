"""Hooks of plugins on manifests: they change objects of their namespace before these are read, or refuse them.

A refused object is a broken one: its last good version stays. Hooks are pure, so what one made of an object is kept as long as the
object and all hooks before it are the same; whoever makes hooks keeps them the same objects while they would do the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_core.translate.memory import Memory

KINDS = frozenset(
    {
        ("nexus.dev", "NexusGatewayParameters"),
        ("nexus.dev", "NexusPolicy"),
        ("nexus.dev", "NexusService"),
        ("gateway.networking.k8s.io", "GRPCRoute"),
        ("gateway.networking.k8s.io", "HTTPRoute"),
        ("gateway.networking.k8s.io", "TCPRoute"),
        ("gateway.networking.k8s.io", "TLSRoute"),
        ("gateway.networking.k8s.io", "UDPRoute"),
    }
)
"""(group, kind) of objects that hooks see. Never plugins, marketplaces or secrets: a plugin does not change what holds it."""
MAX_MESSAGE = 1000
"""Characters of a refusal that are shown: a condition has 32 KiB for all of an object's problems."""


class ManifestHook(Protocol):
    """One plugin's `on_manifest`. namespace: whose objects it sees. name: `<namespace>/<name>` of the NexusPlugin, for messages.
    failure_policy: what happens to an object at which it raises: `open` takes it as it was applied, `closed` refuses it.
    """

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def failure_policy(self) -> Literal["open", "closed"]: ...

    def call(self, manifest: Manifest) -> Manifest | Refusal:
        """Return what is translated, or why it is refused. Pure. May raise anything; whoever implements it tells of that."""
        ...


def apply_hooks(resources: Iterable[Resource], hooks: Sequence[ManifestHook], memory: Memory) -> Iterable[Resource]:
    """Return the resources as the hooks of their namespaces want them; the very same ones where nothing changes."""
    if not hooks:
        memory.hooked = {}
        return resources
    by_namespace: dict[str, tuple[ManifestHook, ...]] = {}
    for hook in hooks:
        by_namespace[hook.namespace] = (*by_namespace.get(hook.namespace, ()), hook)
    known, memory.hooked = memory.hooked, {}
    found = []
    for resource in resources:
        mine = by_namespace.get(resource.ref.namespace, ())
        if not mine or (resource.group, resource.ref.kind) not in KINDS:
            found.append(resource)
            continue
        kept = known.get(resource.ref)
        if kept is None or kept[1] is not resource or not _same(kept[0], mine):
            kept = (mine, resource, _run(resource, mine))
        memory.hooked[resource.ref] = kept
        found.append(kept[2])
    return found


def _same(one: tuple[ManifestHook, ...], other: tuple[ManifestHook, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _run(resource: Resource, hooks: tuple[ManifestHook, ...]) -> Resource:
    spec = resource.raw.get("spec")
    if not isinstance(spec, Mapping):
        return resource  # broken, and told as such
    ref = resource.ref
    first = manifest = Manifest(
        ref.kind, ref.namespace, ref.name, spec, dict(resource.labels), dict(resource.annotations)
    )
    for hook in hooks:
        # A copy: a hook that changes what it got would change the object as it was applied.
        given = copy.deepcopy(manifest)
        try:
            answer: Any = hook.call(given)
            if isinstance(answer, Refusal):
                return _refused(resource, f"refuses it: {answer.message} ({answer.reason})", hook.name)
            _check(manifest, answer)
        except Exception as error:
            # Whatever a plugin raises costs one object at most; the hook itself tells of it where logs are.
            if hook.failure_policy == "closed":
                return _refused(resource, f"failed at it: {type(error).__name__}: {error}", hook.name)
            continue
        manifest = answer
    if manifest == first:
        return resource
    metadata = {
        **_mapping(resource.raw.get("metadata")),
        "labels": dict(manifest.labels),
        "annotations": dict(manifest.annotations),
    }
    return parse({**resource.raw, "metadata": metadata, "spec": manifest.spec})


def _check(given: Manifest, answer: object) -> None:
    """Raise TypeError for what is no manifest, ValueError for that of another object."""
    if not isinstance(answer, Manifest) or not isinstance(answer.spec, Mapping):
        raise TypeError(f"on_manifest returned {type(answer).__name__}, neither a Manifest nor a Refusal")
    if (answer.kind, answer.namespace, answer.name) != (given.kind, given.namespace, given.name):
        raise ValueError("on_manifest returned another object; kind, namespace and name stay as they are")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _refused(resource: Resource, said: str, hook: str) -> Resource:
    text = said if len(said) <= MAX_MESSAGE else f"{said[:MAX_MESSAGE]}…"
    fix = "Change the object as the plugin asks, or the plugin's configuration; its last good version stays until then."
    problem = Problem(resource.ref, ".", "PluginRefused", f"NexusPlugin {hook} {text}.", fix)
    return Resource(
        ref=resource.ref,
        generation=resource.generation,
        created_at=resource.created_at,
        labels=resource.labels,
        annotations=resource.annotations,
        spec=None,
        problems=(problem,),
        raw=resource.raw,
        group=resource.group,
    )
