"""All resources of one moment, indexed. Order and repeats of the input end here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_core.model import gateway_api
from nexus_core.model.kinds import CONTROLLER_NAME, KINDS
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem

Key = tuple[str, str]
"""(namespace, name)"""
NAMES_SHOWN = 10
"""Names that a message lists of what there is."""


@dataclass(frozen=True)
class World:
    """by_kind: resources of each kind by (namespace, name), in that order. problems: objects given twice, unknown kinds. standing:
    Gateways that are ours although their class is not there.
    """

    by_kind: Mapping[str, Mapping[Key, Resource]]
    class_names: frozenset[str]
    problems: tuple[Problem, ...] = ()
    standing: frozenset[ObjectRef] = frozenset()
    _names: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict, repr=False, compare=False)

    def all(self, kind: str) -> Iterator[Resource]:
        """Yield the resources of a kind, sorted by namespace and name."""
        yield from self.by_kind.get(kind, {}).values()

    def find(self, kind: str, namespace: str, name: str) -> Resource | None:
        """Return the resource, broken or not, or None."""
        return self.by_kind.get(kind, {}).get((namespace, name))

    def names(self, kind: str, namespace: str) -> tuple[str, ...]:
        """Return the first names of a kind in a namespace, for a message that helps to choose: NAMES_SHOWN at most, sorted."""
        if kind not in self._names:
            found: dict[str, list[str]] = {}
            for of_namespace, name in self.by_kind.get(kind, {}):
                here = found.setdefault(of_namespace, [])
                if len(here) < NAMES_SHOWN:
                    here.append(name)
            self._names[kind] = {of_namespace: tuple(some) for of_namespace, some in found.items()}
        return self._names[kind].get(namespace, ())

    def labels_of_namespace(self, namespace: str) -> Mapping[str, str]:
        """Return the namespace's labels; the one every namespace has on Kubernetes is there without the object too."""
        found = self.find("Namespace", "", namespace)
        return {"kubernetes.io/metadata.name": namespace, **(found.labels if found else {})}


def build_world(resources: Iterable[Resource], class_name: str, standing: Iterable[ObjectRef] = ()) -> World:
    """Return the index. class_name: GatewayClass that is ours even when its object is not there (files). standing: see `World`."""
    found: dict[str, dict[Key, Resource]] = {}
    problems: list[Problem] = []
    for resource in resources:
        ref = resource.ref
        if (resource.group, ref.kind) not in KINDS:
            problems.extend(resource.problems)
            continue
        here = found.setdefault(ref.kind, {})
        key = (ref.namespace, ref.name)
        other = here.get(key)
        if other is not None and other != resource:
            what = f"{ref} is defined more than once."
            problems.append(Problem(ref, ".", "DuplicateObject", what, "Keep one of the definitions."))
            resource = min(other, resource, key=_text_of)
        here[key] = resource
    by_kind = {kind: dict(sorted(items.items())) for kind, items in sorted(found.items())}
    classes = _our_classes(by_kind.get("GatewayClass", {}), class_name)
    return World(by_kind, classes, tuple(problems), frozenset(standing))


def precedence(resource: Resource) -> tuple[bool, str, str, str]:
    """Sort key: older first, then by namespace and name. An object without a date (files) comes before dated ones."""
    return resource.created_at != "", resource.created_at, resource.ref.namespace, resource.ref.name


def _our_classes(classes: Mapping[Key, Resource], class_name: str) -> frozenset[str]:
    ours = {class_name}
    for (_, name), resource in classes.items():
        if isinstance(resource.spec, gateway_api.GatewayClassSpec):
            if resource.spec.controller_name == CONTROLLER_NAME:
                ours.add(name)
            else:
                ours.discard(name)
    return frozenset(ours)


def _text_of(resource: Resource) -> str:
    """Some text that does not depend on the order of maps."""
    return f"{resource.created_at} {resource.generation} {_canonical(resource.raw, 0)}"


def _canonical(value: Any, depth: int) -> str:
    if depth > 100:
        return "…"
    if isinstance(value, Mapping):
        items = sorted((_canonical(k, depth + 1), _canonical(v, depth + 1)) for k, v in value.items())
        return "{" + ",".join(f"{k}:{v}" for k, v in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_canonical(v, depth + 1) for v in value) + "]"
    return repr(value)
