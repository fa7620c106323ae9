"""What `targetRefs` of policies and plugins point at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pydantic

from nexus_core.model.policies import TargetRef
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.gateways import Gateways
from nexus_core.translate.worlds import World


@dataclass(frozen=True)
class Targets:
    """Resolves targets of the same namespace."""

    world: World
    gateways: Gateways

    def resolve(self, ref: ObjectRef, refs: Iterable[TargetRef]) -> tuple[list[ObjectRef], list[Problem]]:
        """Return the targets that exist, without repeats, and a problem for each that does not."""
        found: list[ObjectRef] = []
        problems = []
        for index, target in enumerate(refs):
            wanted = ObjectRef(target.kind, ref.namespace, target.name)
            exists = (
                wanted in self.gateways.by_gateway
                if target.kind == "Gateway"
                else self.world.find(target.kind, ref.namespace, target.name) is not None
            )
            if exists and wanted not in found:
                found.append(wanted)
            elif not exists:
                what = f'There is no {target.kind} "{target.name}" in namespace "{ref.namespace}".'
                fix = f"Create it, or name another; targets are of the same namespace as the {ref.kind}."
                problems.append(Problem(ref, f".spec.targetRefs[{index}].name", "TargetNotFound", what, fix))
        return found, problems

    def readable(self, resource: Resource) -> list[TargetRef]:
        """Return the targets of an object whose spec is broken, as far as they can be read."""
        spec = resource.raw.get("spec")
        refs = spec.get("targetRefs") if isinstance(spec, dict) else None
        found = []
        for item in refs if isinstance(refs, list) else []:
            try:
                found.append(TargetRef.model_validate(item))
            except pydantic.ValidationError:
                continue
        return found

    def count(self, resource: Resource) -> int:
        """Return how many targets an object names, readable or not; when the list itself is none, one."""
        spec = resource.raw.get("spec")
        refs = spec.get("targetRefs") if isinstance(spec, dict) else None
        return len(refs) if isinstance(refs, list) and refs else 1
