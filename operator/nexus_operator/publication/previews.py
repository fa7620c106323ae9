"""Objects that are looked at before they are applied: what serves in their place, and what their change would do.

An object with the annotation `nexus.dev/preview: "true"` does not enter the Snapshot. What serves is the version that was
applied last, as this operator remembers it; else what the published Snapshot holds of it, as for a broken object; else
nothing. The world with the object in it is translated beside, and the gateways' requests run through both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nexus_core.match.replay import Report, compare
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Snapshot
from nexus_core.snapshot.samples import Sample, decode_samples
from nexus_core.snapshot.wire import WireError

from nexus_operator.world.kinds import ROUTES

ANNOTATION = "nexus.dev/preview"
KINDS = frozenset(
    {"Gateway", "ListenerSet", "NexusPlugin", "NexusPolicy", "NexusService", *(kind.kind for kind in ROUTES)}
)


def is_previewed(resource: Resource) -> bool:
    """Return whether the object asks for a preview."""
    return resource.ref.kind in KINDS and resource.annotations.get(ANNOTATION) == "true"


@dataclass(frozen=True, slots=True)
class Held:
    """world: what is translated and applied. previewed: objects that are held back, sorted. applied: what to remember for
    the next round."""

    world: tuple[Resource, ...]
    previewed: tuple[ObjectRef, ...]
    applied: Mapping[ObjectRef, Resource]


def hold_back(resources: Iterable[Resource], applied: Mapping[ObjectRef, Resource]) -> Held:
    """Return the world without what is only previewed. applied: `Held.applied` of the round before."""
    world: list[Resource] = []
    previewed: list[ObjectRef] = []
    remembered: dict[ObjectRef, Resource] = {}
    for resource in resources:
        if resource.ref.kind not in KINDS:
            world.append(resource)
            continue
        if is_previewed(resource):
            previewed.append(resource.ref)
            before = applied.get(resource.ref)
            if before is not None and _uid(before) != _uid(resource):
                before = None  # deleted and made anew: what was applied is another object
            if before is not None:
                remembered[resource.ref] = before
            resource = before if before is not None else _without_spec(resource)
        elif resource.readable:
            remembered[resource.ref] = resource
        elif resource.ref in applied:
            remembered[resource.ref] = applied[resource.ref]
        world.append(resource)
    return Held(tuple(world), tuple(sorted(previewed)), remembered)


def _uid(resource: Resource) -> object:
    metadata = resource.raw.get("metadata")
    return metadata.get("uid") if isinstance(metadata, Mapping) else None


_UNREADABLE = ((),)
"""A value that fits no section: neither a map, nor a scalar, nor a list of maps or scalars."""


def _without_spec(resource: Resource) -> Resource:
    """Return the object as one that cannot be read: translation keeps its last good version, or makes nothing of it.

    Targets, parents and class stay readable, for the last good version to find its place. Of a policy every section is made
    unreadable: translation applies the sound ones of a broken policy, and keeps what was published of the others.
    """
    raw = dict(resource.raw)
    spec = raw.get("spec")
    if resource.ref.kind == "NexusPolicy" and isinstance(spec, Mapping):
        raw["spec"] = {key: value if key == "targetRefs" else _UNREADABLE for key, value in spec.items()}
    return Resource(
        ref=resource.ref,
        generation=resource.generation,
        created_at=resource.created_at,
        labels=resource.labels,
        annotations=resource.annotations,
        raw=raw,
        group=resource.group,
    )


@dataclass(frozen=True, slots=True)
class Preview:
    """What the previewed objects together would do. report: None while no gateway has told of any request."""

    previewed: tuple[ObjectRef, ...]
    report: Report | None


def build_preview(
    previewed: tuple[ObjectRef, ...], samples: Sequence[Sample], published: Snapshot, candidate: Snapshot
) -> Preview:
    """Return the preview. published: what serves. candidate: what would, with all previewed objects applied."""
    return Preview(previewed, compare(samples, published, candidate) if samples else None)


def read_samples(values: Iterable[tuple[str, bytes]]) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return the samples of all gateways, by (key, value), and a sentence for each that cannot be read."""
    found: list[Sample] = []
    unreadable: list[str] = []
    for key, value in sorted(values):
        try:
            found.extend(decode_samples(value))
        except WireError as error:
            unreadable.append(f"{key}: {error}")
    return tuple(found), tuple(unreadable)
