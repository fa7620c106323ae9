"""NexusPlugins to instances, and onto the rules they apply to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec

from nexus_core.marketplace import Index
from nexus_core.marketplace.locks import NO_LOCK, Lock
from nexus_core.marketplace.resolving import Resolved, Unresolved
from nexus_core.marketplace.updates import next_change
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import PluginInstance, Route, listeners
from nexus_core.translate import plugin_instances
from nexus_core.translate.memory import Memory
from nexus_core.translate.plugin_choices import Choice, find_choice, find_passed_over, resolve
from nexus_core.translate.plugin_markets import Markets
from nexus_core.translate.plugin_order import sort_plugins
from nexus_core.translate.plugin_secrets import Secrets
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.targets import Targets
from nexus_core.translate.translation import PluginStatus
from nexus_core.translate.worlds import World


@dataclass(frozen=True)
class _Reach:
    """Where a plugin applies. everywhere: all routes of its namespace. routes: ids, for one whose targets cannot be read."""

    namespace: str
    everywhere: bool = False
    targets: frozenset[ObjectRef] = frozenset()
    routes: frozenset[str] = frozenset()


@dataclass
class Plugins:
    """instances: by id; without secrets until `seal`. statuses: without routes until `attach`. specs: of instances, those that can be
    read.
    """

    instances: dict[str, PluginInstance] = field(default_factory=dict)
    statuses: dict[str, PluginStatus] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    reaches: dict[str, _Reach] = field(default_factory=dict)
    specs: dict[str, NexusPluginSpec] = field(default_factory=dict)
    changes_at_utc: datetime | None = None
    locks: Mapping[str, Lock] = field(default_factory=dict)

    def attach(self, routes: list[Route], memory: Memory) -> list[Route]:
        """Return the routes with the plugins in their rules, in running order, and note in the statuses where they are."""
        order, circles = sort_plugins(self.instances.values())
        self.problems.extend(circles)
        place = {plugin: number for number, plugin in enumerate(order)}
        said = [(plugin, self.reaches[plugin]) for plugin in order]
        known = memory.plugins if memory.plugins_of == said else {}
        memory.plugins, memory.plugins_of = {}, said
        by_namespace: dict[str, list[str]] = {}
        for plugin in order:
            by_namespace.setdefault(self.reaches[plugin].namespace, []).append(plugin)
        on: dict[str, set[str]] = {plugin: set() for plugin in order}
        found = []
        for route in routes:
            before = known.get(route.id)
            if before is not None and before[0] is route:
                memory.plugins[route.id] = before
                found.append(before[1])
                for rule in before[1].rules:
                    for plugin in rule.plugins:
                        on[plugin].add(route.id)
                continue
            facts = _Facts.of(route)
            # A plugin reaches routes of its own namespace, and routes of others only through its Gateway or service.
            spaces = sorted({facts.source.namespace, *(t.namespace for t in facts.gateways), *facts.backend_namespaces})
            candidates = sorted((p for s in spaces for p in by_namespace.get(s, ())), key=place.__getitem__)
            rules = []
            for index, rule in enumerate(route.rules):
                plugins = tuple(p for p in candidates if facts.reached(self.reaches[p], index))
                for plugin in plugins:
                    on[plugin].add(route.id)
                rules.append(rule if rule.plugins == plugins else msgspec.structs.replace(rule, plugins=plugins))
            done = route
            if any(new is not rule for new, rule in zip(rules, route.rules, strict=True)):
                done = msgspec.structs.replace(route, rules=tuple(rules))
            memory.plugins[route.id] = (route, done)
            found.append(done)
        for plugin, ids in on.items():
            self.statuses[plugin] = replace(self.statuses[plugin], routes=tuple(sorted(ids)))
        return found

    def seal(self, routes: Iterable[Route], secrets: Secrets) -> None:
        """Put the plugins' secrets into them, for the Gateways that serve their routes. routes: those that plugins are attached to."""
        if not self.instances:
            return
        at: dict[str, set[str]] = {plugin: set() for plugin in self.instances}
        for route in routes:
            plugins = {plugin for rule in route.rules for plugin in rule.plugins}
            if plugins:
                gateways = {listeners.gateway_of(listener) for listener in route.listeners}
                for plugin in plugins:
                    at[plugin] |= gateways
        for plugin, instance in self.instances.items():
            served = tuple(sorted(at[plugin]))
            self.statuses[plugin] = replace(self.statuses[plugin], gateways=served)
            if instance.lacking is not None:
                continue  # nothing runs that could want a secret
            self.instances[plugin], problems = secrets.put_in(instance, self.specs.get(plugin), served)
            self.problems.extend(problems)


@dataclass(frozen=True)
class _Facts:
    """What plugins may aim at in a route. backends: NexusServices of each rule."""

    route: str
    source: ObjectRef
    gateways: frozenset[ObjectRef]
    backends: tuple[frozenset[ObjectRef], ...]
    backend_namespaces: frozenset[str]

    @classmethod
    def of(cls, route: Route) -> _Facts:
        gateways = frozenset(gateway_of(listener) for listener in route.listeners)
        backends = tuple(frozenset(_services(b.upstream for b in rule.backends)) for rule in route.rules)
        namespaces = frozenset(ref.namespace for refs in backends for ref in refs)
        return cls(route.id, ObjectRef.parse(route.source), gateways, backends, namespaces)

    def reached(self, reach: _Reach, rule: int) -> bool:
        if reach.everywhere and reach.namespace == self.source.namespace:
            return True
        if self.route in reach.routes or self.source in reach.targets:
            return True
        # A service that is protected stays so by whatever route it is reached.
        return not reach.targets.isdisjoint(self.backends[rule]) or not reach.targets.isdisjoint(self.gateways)


def gateway_of(listener_id: str) -> ObjectRef:
    """Return the Gateway a listener belongs to."""
    namespace, name, _ = listener_id.split("/", 2)
    return ObjectRef("Gateway", namespace, name)


def _services(upstreams: Iterable[str]) -> Iterator[ObjectRef]:
    """The NexusServices among some `Upstream.id`s."""
    for upstream in upstreams:
        namespace, slash, name = upstream.partition("/")
        if slash and "/" not in name:
            yield ObjectRef("NexusService", namespace, name)


def build_plugins(
    world: World,
    last: LastGood,
    targets: Targets,
    indexes: Mapping[str, Index],
    memory: Memory,
    locks: Mapping[str, Lock],
    now_utc: datetime | None,
) -> Plugins:
    """Return an instance for each NexusPlugin that is enabled and has a release, and for each that says that it fails closed. locks:
    by `<namespace>/<name>`.
    """
    found = Plugins(locks=locks)
    for resource in world.all("NexusMarketplace"):
        found.problems.extend(resource.problems)
    markets = Markets(world, last, indexes, memory)
    choices: list[Choice] = []
    for resource in world.all("NexusPlugin"):
        found.problems.extend(resource.problems)
        plugin_id = f"{resource.ref.namespace}/{resource.ref.name}"
        spec = resource.spec
        if not isinstance(spec, NexusPluginSpec):
            why = next(iter(resource.problems), None)
            _keep(found, plugin_id, last, targets, resource, why)
        elif not spec.enabled:
            # Whoever switches it off and on again wants what was taken back to be tried again.
            lock = locks[plugin_id].forgiven() if plugin_id in locks else None
            name = spec.plugin or resource.ref.name
            found.statuses[plugin_id] = PluginStatus(resource.ref, resource.generation, False, name, lock=lock)
        else:
            before, lock = last.plugins.get(plugin_id), locks.get(plugin_id)
            choice = find_choice(resource, spec, markets, before, lock or NO_LOCK, now_utc)
            if isinstance(choice, Choice):
                choices.append(choice)
            else:
                aims = _aims(found, targets, resource, spec)
                found.problems.append(choice)
                _keep(found, plugin_id, last, targets, resource, choice, aims, everywhere=not spec.target_refs)
    resolved = resolve(choices, markets, memory)
    for choice in choices:
        _install(found, choice, resolved[choice.id], markets, last, targets)
    found.changes_at_utc = next_change(choice.options for choice in choices)
    return found


def _install(
    found: Plugins,
    choice: Choice,
    answer: Resolved | Unresolved,
    markets: Markets,
    last: LastGood,
    targets: Targets,
) -> None:
    resource, spec = choice.resource, choice.spec
    ref = resource.ref
    aims = _aims(found, targets, resource, spec)
    if isinstance(answer, Resolved):
        built = plugin_instances.build(choice, answer, markets)
    else:
        problem = Problem(ref, ".spec.version", "PluginConflict", answer.what, answer.fix)
        built = plugin_instances.Built(plugin_instances.build_former(choice, markets).instance, problem)
    problems = [problem for problem in (choice.problem, built.problem) if problem is not None]
    found.problems.extend(problems)
    if built.instance is None:
        why = built.problem or choice.problem
        _keep(found, choice.id, last, targets, resource, why, aims, everywhere=not spec.target_refs)
        found.statuses[choice.id] = replace(found.statuses[choice.id], available=choice.options.available)
        return
    instance = found.instances[choice.id] = built.instance
    newest = instance if instance.candidate is None else instance.candidate.instance
    found.specs[choice.id] = spec
    found.reaches[choice.id] = _Reach(ref.namespace, not spec.target_refs, aims)
    found.statuses[choice.id] = PluginStatus(
        ref,
        resource.generation,
        True,
        instance.release.name,
        instance.release.version,
        (),
        bool(problems),
        found.locks.get(choice.id),
        instance.candidate.instance.release.version if instance.candidate is not None else "",
        choice.options.available,
        _dependencies(instance),
        passed_over=find_passed_over(choice, answer, newest.release.version),
    )


def _aims(found: Plugins, targets: Targets, resource: Resource, spec: NexusPluginSpec) -> frozenset[ObjectRef]:
    aims, missing = targets.resolve(resource.ref, spec.target_refs)
    found.problems.extend(missing)
    return frozenset(aims)


def _dependencies(instance: PluginInstance) -> tuple[str, ...]:
    libraries = (f"{library.release.name} {library.release.version}" for library in instance.libraries)
    return (*libraries, *(f"{wheel.name} {wheel.version}" for wheel in instance.wheels))


def _keep(
    found: Plugins,
    plugin_id: str,
    last: LastGood,
    targets: Targets,
    resource: Resource,
    why: Problem | None,
    aims: frozenset[ObjectRef] = frozenset(),
    *,
    everywhere: bool = False,
) -> None:
    """Carry over a plugin that is broken: it stays where it was, and goes where its targets, if readable, say.

    why: it is broken. One that never had a release and fails closed goes there, too: `plugin_instances.lacking`.
    """
    ref = resource.ref
    lock = found.locks.get(plugin_id)
    former = last.plugins_of(ref)
    kept = tuple(plugin_instances.kept(each, resource.spec, lock) for each in former if each.lacking is None)
    release = kept[0].release if kept else None
    spec = resource.spec
    # Of a spec that cannot be read, this is what it says in any case: "off" would be told as its owner's wish.
    said = resource.raw.get("spec")
    enabled = bool(kept) or not (isinstance(said, Mapping) and said.get("enabled") is False)
    name = release.name if release else ""
    if isinstance(spec, NexusPluginSpec):
        enabled, name = spec.enabled, spec.plugin or ref.name
    version = release.version if release else ""
    dependencies = _dependencies(kept[0]) if kept else ()
    tried = kept[0].candidate if kept else None
    found.statuses[plugin_id] = PluginStatus(
        ref,
        resource.generation,
        enabled,
        name,
        version,
        (),
        bool(kept),
        lock,
        tried.instance.release.version if tried is not None else "",
        dependencies=dependencies,
    )
    if not kept and enabled:
        lacking = plugin_instances.lacking(resource, why)
        if isinstance(spec, NexusPluginSpec):
            if lacking is not None:
                found.instances[plugin_id] = lacking
                found.reaches[plugin_id] = _Reach(ref.namespace, everywhere, aims)
            return
        kept = (lacking,) if lacking is not None else former
        everywhere = isinstance(said, Mapping) and not said.get("targetRefs")
    for instance in kept:
        if not aims and not everywhere:
            aims = frozenset(targets.resolve(ref, targets.readable(resource))[0])
        of_namespace = {r.id for r in last.snapshot.routes if ObjectRef.parse(r.source).namespace == ref.namespace}
        had = {r.id for r in last.snapshot.routes if any(instance.id in rule.plugins for rule in r.rules)}
        # It was on every route of its namespace: a route that is new since then shall not be the one without it.
        wide = everywhere or bool(had and of_namespace <= had and not aims)
        if isinstance(spec, NexusPluginSpec):
            found.specs[instance.id] = spec
        found.instances[instance.id] = instance
        found.reaches[instance.id] = _Reach(ref.namespace, wide, aims, frozenset(had))
