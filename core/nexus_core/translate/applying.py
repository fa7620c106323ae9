"""Policies put on upstreams and routes, those that a run before did not put there already."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Fallback, Mirror, Route, StreamRoute, Upstream
from nexus_core.translate.memory import Finished, Memory
from nexus_core.translate.plugins import gateway_of
from nexus_core.translate.policies import Policies
from nexus_core.translate.upstreams import Upstreams
from nexus_core.translate.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Applied:
    """routes: with their policies. called: upstreams that some route or stream leads to."""

    routes: list[Route]
    called: set[str]


def apply_policies(
    merging: Policies,
    routes: list[Route],
    streams: Iterable[StreamRoute],
    ups: Upstreams,
    own: Mapping[str, Wishes],
    kept: Collection[str],
    memory: Memory,
) -> Applied:
    """Put policies into the upstreams (`ups.by_id` is changed), then into the routes.

    own: what routes say themselves, by `Rule.id`. kept: ids of last good versions, which are looked at anew each time.
    """
    said = merging.said()
    if said is None or said != memory.policies_of:
        memory.merged, memory.finished = {}, {}
    memory.policies_of = said
    facts = [_facts(route, None if route.id in kept else memory.finished.get(route.id)) for route in routes]
    gateways_of: dict[str, set[ObjectRef]] = {}
    called: set[str] = set()
    for fact in facts:
        for name in fact.backends:
            gateways_of.setdefault(name, set()).update(fact.gateways)
    for stream in streams:
        through = {gateway_of(listener) for listener in stream.listeners}
        for backend in stream.backends:
            gateways_of.setdefault(backend.upstream, set()).update(through)
            called.add(backend.upstream)
    _merge(merging, ups, gateways_of, memory)
    found: list[Route] = []
    finished: dict[str, Finished] = {}
    by_id = ups.by_id
    for fact in facts:
        route = fact.route
        upstreams = tuple([by_id.get(name) for name in fact.backends])
        if fact.done is not None and all(a is b for a, b in zip(upstreams, fact.upstreams, strict=True)):
            done = fact
        else:
            whole = merging.route(route, by_id, fact.gateways, own, kept=route.id in kept)
            again = route.id in kept
            if route.id.startswith("GRPCRoute/") and any(True for _ in _elsewhere(whole)):
                whole = _of_calls(whole, ups)
                again = True  # what it asks for has to be asked for each time
            done = Finished(route, fact.gateways, fact.backends, upstreams, whole, frozenset(_named(whole)))
            if again:
                found.append(whole)
                called |= done.called
                continue
        finished[route.id] = done
        assert done.done is not None
        found.append(done.done)
        called |= done.called
    memory.finished = finished if said is not None else {}
    return Applied(found, called)


def _facts(route: Route, before: Finished | None) -> Finished:
    """Return what is known of a route, or what is needed to finish it."""
    if before is not None and before.route is route:
        return before
    gateways = frozenset({gateway_of(listener) for listener in route.listeners})
    backends = tuple(sorted({b.upstream for rule in route.rules for b in rule.backends if b.upstream}))
    return Finished(route, gateways, backends)


def _merge(merging: Policies, ups: Upstreams, gateways_of: Mapping[str, set[ObjectRef]], memory: Memory) -> None:
    merged: dict[str, tuple[Upstream, frozenset[ObjectRef], Upstream]] = {}
    for name, upstream in ups.by_id.items():
        gateways = frozenset(gateways_of.get(name, ()))
        before = memory.merged.get(name)
        if before is not None and before[0] is upstream and before[1] == gateways:
            merged[name] = before
        else:
            told = len(merging.problems)
            done = ups.settled(merging.upstream(upstream, gateways, kept=name in ups.kept))
            if before is not None and before[2] == done:
                done = before[2]  # so that what leads to it is as it was
            if len(merging.problems) > told:
                # What it has to tell has to be told each time.
                ups.by_id[name] = done
                continue
            merged[name] = (upstream, gateways, done)
        ups.by_id[name] = merged[name][2]
    memory.merged = {name: each for name, each in merged.items() if name not in ups.kept}


def _named(route: Route) -> Iterator[str]:
    for rule in route.rules:
        for backend in rule.backends:
            yield backend.upstream
    yield from _elsewhere(route)


def _elsewhere(route: Route) -> Iterator[str]:
    """Yield upstreams that filters send to, empty ones too."""
    for rule in route.rules:
        for item in rule.filters:
            if isinstance(item, Mirror | Fallback):
                yield item.upstream


def _of_calls(route: Route, ups: Upstreams) -> Route:
    """Let what policies on a GRPCRoute send elsewhere go there as calls: they name services, not what is spoken to them."""
    rules = tuple(
        msgspec.structs.replace(
            rule,
            filters=tuple(
                msgspec.structs.replace(f, upstream=ups.speaking(ups.by_id[f.upstream], "grpc"))
                if isinstance(f, Mirror | Fallback) and f.upstream.count("/") == 1 and f.upstream in ups.by_id
                else f
                for f in rule.filters
            ),
        )
        for rule in route.rules
    )
    return msgspec.structs.replace(route, rules=rules)
