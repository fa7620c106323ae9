"""A rule's filters, sorted once for each Snapshot by when they have their say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexus_core.snapshot import Fallback, Fault, Filter, Mirror, RateLimit, SizeLimit

from nexus_gateway.filters import sizes
from nexus_gateway.filters.cors import CorsFilter
from nexus_gateway.filters.lanes import Lane, build_lane
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.filters.table import FILTERS


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """What is to be done for a rule's requests, or for a backend's.

    head_filters: in the user's order. lane: the same as bytes, None where heads have to be built; empty without head filters.
    cors: the first one's, to answer preflights before plugins and to put its headers on the gateway's own answers.
    limits, mirrors: in the user's order. size: the strictest of all. fault, fallback: the first one.
    """

    head_filters: tuple[HeadFilter, ...] = ()
    lane: Lane | None = None
    cors: CorsFilter | None = None
    limits: tuple[RateLimit, ...] = ()
    size: SizeLimit | None = None
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    fallback: Fallback | None = None


def compile_rule(filters: Sequence[Filter]) -> CompiledRule:
    """Return the filters of a rule or backend, sorted. Never fails on values that the Snapshot's codec lets through."""
    head_filters: list[HeadFilter] = []
    limits: list[RateLimit] = []
    size: list[SizeLimit] = []
    mirrors: list[Mirror] = []
    fault: Fault | None = None
    fallback: Fallback | None = None
    for policy in filters:
        match policy:
            case RateLimit():
                limits.append(policy)
            case SizeLimit():
                size.append(policy)
            case Mirror():
                mirrors.append(policy)
            case Fault():
                fault = fault or policy
            case Fallback():
                fallback = fallback or policy
            case _:
                head_filters.append(FILTERS[type(policy)](policy))
    return CompiledRule(
        tuple(head_filters),
        build_lane(head_filters),
        next((each for each in head_filters if isinstance(each, CorsFilter)), None),
        tuple(limits),
        sizes.merge(tuple(size)),
        fault,
        tuple(mirrors),
        fallback,
    )
