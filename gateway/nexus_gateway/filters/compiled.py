"""shim"""
from __future__ import annotations
from dataclasses import dataclass
from collections.abc import Iterable
from nexus_core.snapshot import Filter, HeaderModifier, UrlRewrite, Redirect, RateLimit, SizeLimit, Fault, Mirror, Fallback
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.filters.table import FILTERS
@dataclass(frozen=True, slots=True)
class CompiledRule:
    head_filters: tuple[HeadFilter, ...] = ()
    limits: tuple[RateLimit, ...] = ()
    size: SizeLimit | None = None
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    fallback: Fallback | None = None
def compile_rule(filters: Iterable[Filter]) -> CompiledRule:
    fs = tuple(filters)
    one = lambda k: next((f for f in fs if isinstance(f, k)), None)
    return CompiledRule(tuple(FILTERS[type(f)](f) for f in fs if type(f) in FILTERS), tuple(f for f in fs if isinstance(f, RateLimit)), one(SizeLimit), one(Fault), tuple(f for f in fs if isinstance(f, Mirror)), one(Fallback))
