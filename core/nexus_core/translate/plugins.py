"""NexusPlugins to instances, and onto the rules they apply to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec
from packaging.specifiers import SpecifierSet

from nexus_core.hooks import API_VERSION
from nexus_core.marketplace import Index, Refusal, choose
from nexus_core.model.plugins import NexusMarketplaceSpec, NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import PluginInstance, Release, Route
from nexus_core.translate.memory import Memory
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
    """instances: by id. statuses: without routes until `attach`."""

    instances: dict[str, PluginInstance] = field(default_factory=dict)
    statuses: dict[str, PluginStatus] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    reaches: dict[str, _Reach] = field(default_factory=dict)

    def attach(self, routes: list[Route], memory: Memory) -> list[Route]:
        """Return the routes with the plugins in their rules, in running order, and note in the statuses where they are."""
        order = sorted(self.instances, key=self._place)
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
            candidates = sorted((p for s in spaces for p in by_namespace.get(s, ())), key=self._place)
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

    def _place(self, plugin: str) -> tuple[int, str]:
        return self.instances[plugin].order, plugin


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


def build_plugins(world: World, last: LastGood, targets: Targets, indexes: Mapping[str, Index]) -> Plugins:
    """Return an instance for each NexusPlugin that is enabled and has a release."""
    found = Plugins()
    for resource in world.all("NexusMarketplace"):
        found.problems.extend(resource.problems)
    for resource in world.all("NexusPlugin"):
        found.problems.extend(resource.problems)
        plugin_id = f"{resource.ref.namespace}/{resource.ref.name}"
        if isinstance(resource.spec, NexusPluginSpec):
            _build(found, plugin_id, world, last, targets, indexes, resource, resource.spec)
        else:
            _keep(found, plugin_id, last, targets, resource)
    return found


def _build(
    found: Plugins,
    plugin_id: str,
    world: World,
    last: LastGood,
    targets: Targets,
    indexes: Mapping[str, Index],
    resource: Resource,
    spec: NexusPluginSpec,
) -> None:
    ref = resource.ref
    name = spec.plugin or ref.name
    if not spec.enabled:
        found.statuses[plugin_id] = PluginStatus(ref, resource.generation, False, name)
        return
    aims, missing = targets.resolve(ref, spec.target_refs)
    found.problems.extend(missing)
    chosen = _choose(world, last.plugins.get(plugin_id), indexes, ref, spec, name)
    if isinstance(chosen, Problem):
        found.problems.append(chosen)
        _keep(found, plugin_id, last, targets, resource, frozenset(aims), everywhere=not spec.target_refs)
        return
    release, public_key, base_url = chosen
    found.instances[plugin_id] = PluginInstance(
        id=plugin_id,
        source=str(ref),
        release=release,
        public_key=public_key,
        base_url=base_url,
        config=json.dumps(spec.config, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        order=spec.order,
        timeout_s=float(spec.timeout_seconds),
        failure_policy=spec.failure_policy or release.failure_policy,
    )
    found.reaches[plugin_id] = _Reach(ref.namespace, not spec.target_refs, frozenset(aims))
    found.statuses[plugin_id] = PluginStatus(ref, resource.generation, True, release.name, release.version)


def _keep(
    found: Plugins,
    plugin_id: str,
    last: LastGood,
    targets: Targets,
    resource: Resource,
    aims: frozenset[ObjectRef] = frozenset(),
    *,
    everywhere: bool = False,
) -> None:
    """Carry over a plugin that is broken: it stays where it was, and goes where its targets, if readable, say."""
    ref = resource.ref
    kept = last.plugins_of(ref)
    release = kept[0].release if kept else None
    spec = resource.spec
    enabled, name = bool(kept), release.name if release else ""
    if isinstance(spec, NexusPluginSpec):
        enabled, name = spec.enabled, spec.plugin or ref.name
    version = release.version if release else ""
    found.statuses[plugin_id] = PluginStatus(ref, resource.generation, enabled, name, version, (), bool(kept))
    for instance in kept:
        if not aims and not everywhere:
            aims = frozenset(targets.resolve(ref, targets.readable(resource))[0])
        of_namespace = {r.id for r in last.snapshot.routes if ObjectRef.parse(r.source).namespace == ref.namespace}
        had = {r.id for r in last.snapshot.routes if any(instance.id in rule.plugins for rule in r.rules)}
        # It was on every route of its namespace: a route that is new since then shall not be the one without it.
        wide = everywhere or bool(had and of_namespace <= had and not aims)
        found.instances[instance.id] = instance
        found.reaches[instance.id] = _Reach(ref.namespace, wide, aims, frozenset(had))


def _choose(
    world: World,
    before: PluginInstance | None,
    indexes: Mapping[str, Index],
    ref: ObjectRef,
    spec: NexusPluginSpec,
    name: str,
) -> tuple[Release, str, str] | Problem:
    """Return the release with its publisher's key and the index's address, or what is wrong."""
    marketplace = world.find("NexusMarketplace", "", spec.marketplace)
    if marketplace is None:
        known = ", ".join(r.ref.name for r in world.all("NexusMarketplace")) or "none yet"
        what = f'There is no NexusMarketplace "{spec.marketplace}"; there is {known}.'
        fix = "Create it (docs/errors/marketplace-not-found.md has one to copy), or name another."
        return Problem(ref, ".spec.marketplace", "MarketplaceNotFound", what, fix)
    if not isinstance(marketplace.spec, NexusMarketplaceSpec):
        what = f'NexusMarketplace "{spec.marketplace}" is broken.'
        return Problem(ref, ".spec.marketplace", "MarketplaceNotFound", what, "Mend it; its own conditions say how.")
    index = indexes.get(spec.marketplace)
    if index is None and before is not None and _still_fits(before.release, name, spec.version):
        release = before.release
    elif index is None:
        what = f'The index of NexusMarketplace "{spec.marketplace}" could not be read.'
        fix = "See the marketplace's own conditions; the plugin is installed once its index is there."
        return Problem(ref, ".spec.marketplace", "MarketplaceUnreachable", what, fix)
    else:
        choice = choose(index, name, spec.version, API_VERSION)
        if isinstance(choice, Refusal):
            return _refusal(ref, spec, name, choice)
        release = choice.release
    key = next((p.public_key for p in marketplace.spec.publishers if p.name == release.publisher), None)
    if key is None:
        what = f'{name} {release.version} is published by "{release.publisher}", whom NexusMarketplace "{spec.marketplace}" does not trust.'
        fix = "If you trust them, add their name and publicKey to the marketplace's publishers."
        return Problem(ref, ".spec.marketplace", "PublisherNotTrusted", what, fix)
    return release, key, marketplace.spec.source.url or ""


def _still_fits(release: Release, name: str, spec_range: str) -> bool:
    return release.name == name and SpecifierSet(spec_range).contains(release.version, prereleases=True)


def _refusal(ref: ObjectRef, spec: NexusPluginSpec, name: str, refusal: Refusal) -> Problem:
    listed = ", ".join(refusal.candidates[:10]) or "none"
    if refusal.reason == "PluginNotFound":
        path = ".spec.plugin" if spec.plugin else ".metadata.name"
        what = f'NexusMarketplace "{spec.marketplace}" lists no plugin "{name}"; it lists {listed}.'
        return Problem(ref, path, refusal.reason, what, "Set spec.plugin to one of them.")
    if refusal.reason == "PluginVersionNotFound":
        what = f'No version of {name} is in "{spec.version}"; there is {listed}.'
        return Problem(ref, ".spec.version", refusal.reason, what, "Widen the range.")
    what = f"No version of {name} in the range works with plugin API {API_VERSION}: {listed}."
    return Problem(ref, ".spec.version", refusal.reason, what, "Take a version made for this API, or upgrade Nexus.")
