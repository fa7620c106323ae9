"""NexusPolicies merged into upstreams and rules.

From wide to narrow, field by field: a policy on a Gateway, the service's own `spec.policy`, a policy on the service.
For the rules of an HTTPRoute or GRPCRoute: what their upstream says, a policy on the route, the route's own `timeouts` and `retry`.
Between two policies on one target the older wins, and the younger is told.

What protects is never weakened by a narrower policy: all rate limits hold together, of body limits the smallest, and
`tls.verify: true` stays true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from nexus_core.model import policies as model
from nexus_core.model.resources import Resource
from nexus_core.model.services import NexusServiceSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Mirror, RateLimit, Route, Rule, Upstream
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.rule_filters import Chain, with_filters
from nexus_core.translate.targets import Targets
from nexus_core.translate.translation import PolicyStatus, Verdict
from nexus_core.translate.upstreams import NO_BREAKER
from nexus_core.translate.wishes import (
    OPTIONAL,
    ROUTE_SECTIONS,
    RULE_SECTIONS,
    SECTIONS,
    STORED_SECTIONS,
    TIGHTEST,
    Key,
    Said,
    Wishes,
    combine,
    path_of,
    said_by,
    salvage,
    tighter,
)
from nexus_core.translate.worlds import World, precedence

ROUTES = frozenset({"HTTPRoute", "GRPCRoute"})
"""Kinds of routes that a policy may be on."""
BUDGET = ("retry", "budget_ratio")


@dataclass
class Merged:
    """What all policies say of one target. frozen: sections that keep their last good values, because a policy is broken there."""

    wishes: Wishes = field(default_factory=dict)
    owners: dict[Key, ObjectRef] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    limits: list[RateLimit] = field(default_factory=list)


class Policies:
    """All NexusPolicies, by target, and the services' own `spec.policy`."""

    def __init__(self, world: World, last: LastGood, targets: Targets, upstreams: Collection[str]) -> None:
        """upstreams: ids of those that are there and take requests, for mirrors and fallbacks to name."""
        self._last, self._upstreams = last, upstreams
        self._by_target: dict[ObjectRef, Merged] = {}
        self._own: dict[ObjectRef, Said] = {}
        self._strays: set[str] = set()
        """Names of broken policies whose targets cannot all be read: where their limits were, they stay."""
        self.problems: list[Problem] = []
        self.statuses: list[PolicyStatus] = []
        for resource in world.all("NexusService"):
            self._add_own(resource)
        for resource in sorted(world.all("NexusPolicy"), key=precedence):
            self._add(resource, targets)
        self.statuses.sort(key=lambda status: status.ref)

    def said(self) -> object:
        """Return all that policies say, to be compared: equal ones make the same of the same. None while one of them keeps what it
        had, which depends on the Snapshot before.
        """
        every: tuple[Merged | Said, ...] = (*self._by_target.values(), *self._own.values())
        return None if self._strays or any(each.frozen for each in every) else (self._by_target, self._own)

    def _add_own(self, resource: Resource) -> None:
        ref = resource.ref
        if not isinstance(resource.spec, NexusServiceSpec):
            # Upstreams of broken services are kept whole; their rules keep what they said of the way.
            self._own[ref] = Said(limits=self._last.limits_of(ref), frozen=set(RULE_SECTIONS))
        elif resource.spec.policy is not None:
            said = said_by(resource.spec.policy, ref)
            self._resolve(ref, said.wishes, ".spec.policy")
            self._own[ref] = said

    def _add(self, resource: Resource, targets: Targets) -> None:
        ref = resource.ref
        self.problems.extend(resource.problems)
        if isinstance(resource.spec, model.NexusPolicySpec):
            found, missing = targets.resolve(ref, resource.spec.target_refs)
            said = said_by(resource.spec, ref)
            self.problems.extend(missing)
            self._tell_unused(ref, resource.spec)
            verdict = Verdict(True, "Accepted")
            if missing:
                verdict = Verdict(bool(found), "TargetNotFound", f"{missing[0].what} {missing[0].fix}")
        else:
            readable = targets.readable(resource)
            found, _ = targets.resolve(ref, readable)
            said = salvage(resource)
            if len(readable) < targets.count(resource):
                self._strays.add(str(ref))
            first = resource.problems[0] if resource.problems else None
            message = f"{first.path}: {first.what} {first.fix}" if first else "The policy is broken."
            verdict = Verdict(False, "InvalidSpec", message)
        self._resolve(ref, said.wishes, ".spec")
        self.statuses.append(PolicyStatus(ref, resource.generation, tuple(sorted(found)), verdict))
        for target in found:
            self._merge(ref, target, said)

    def _resolve(self, ref: ObjectRef, wishes: Wishes, root: str) -> None:
        """Put upstream ids in place of the services that mirrors and fallbacks name; what leads nowhere is not said."""
        mirror = wishes.get(("mirror", "whole"))
        named = {("mirror", "whole"): mirror.upstream if isinstance(mirror, Mirror) else None}
        named["fallback", "upstream"] = wishes.get(("fallback", "upstream"))
        for key, name in named.items():
            if name is None:
                continue
            upstream = f"{ref.namespace}/{name}"
            if upstream in self._upstreams:
                wishes[key] = (
                    Mirror(upstream, mirror.ratio) if isinstance(mirror, Mirror) and key[0] == "mirror" else upstream
                )
                continue
            del wishes[key]
            section = key[0]
            what = f'"{name}" is not a NexusService that takes requests in namespace "{ref.namespace}", so there is no {section}.'
            fix = "Create or mend it, or name another."
            self.problems.append(Problem(ref, f"{root}.{section}.service", "BackendNotFound", what, fix))

    def _merge(self, ref: ObjectRef, target: ObjectRef, said: Said) -> None:
        merged = self._by_target.setdefault(target, Merged())
        merged.frozen |= said.frozen
        merged.limits.extend(self._last.limits_of(ref) if said.limits is None else said.limits)
        for key, value in said.wishes.items():
            if key not in merged.wishes:
                merged.wishes[key] = value
                merged.owners[key] = ref
            elif key in TIGHTEST:
                merged.wishes[key] = tighter(merged.wishes[key], value)
            elif merged.wishes[key] != value:
                name = path_of(key)
                what = f"{merged.owners[key]} already sets {name} for {target}, to another value, and has precedence."
                fix = "Say it in one of the two policies only."
                self.problems.append(Problem(ref, f".spec.{name}", "PolicyConflict", what, fix))

    def _tell_unused(self, ref: ObjectRef, spec: model.NexusPolicySpec) -> None:
        if any(target.kind not in ROUTES for target in spec.target_refs):
            return
        for attribute, info in model.PolicyFields.model_fields.items():
            section = STORED_SECTIONS.get(attribute)
            if section in SECTIONS and section not in ROUTE_SECTIONS and getattr(spec, attribute) is not None:
                name = info.alias or attribute
                what = f"{name} has no effect on {_a(spec.target_refs[0].kind)}: it belongs to what is called, not to the way there."
                fix = "Target the NexusService, or remove it."
                self.problems.append(Problem(ref, f".spec.{name}", "UnsupportedValue", what, fix))

    def upstream(self, upstream: Upstream, gateways: Iterable[ObjectRef], *, kept: bool) -> Upstream:
        """Return the upstream with what policies say. gateways: those whose routes lead to it. kept: it is a last good version."""
        source = ObjectRef.parse(upstream.source)
        wide = self._wide(gateways)
        frozen = set(wide.frozen)
        levels: list[tuple[Wishes, ObjectRef | None, str]] = []
        if not kept or source.kind != "NexusService":  # what is kept has them in its values already
            levels.append((wide.wishes, None, ""))
        if source.kind == "NexusService":
            narrow = self._by_target.get(source, Merged())
            frozen |= narrow.frozen
            if source in self._own:
                levels.append((self._own[source].wishes, source, ".spec.policy"))
            levels.append((narrow.wishes, narrow.owners.get(("tls", "verify")), ".spec"))
        wishes: Wishes = {}
        verified = kept and upstream.tls is not None and upstream.tls.verify
        for said, owner, root in levels:
            wishes = combine(wishes, said)
            undone = wishes.get(("tls", "verify")) is False
            if not verified:
                verified = ("tls", "enabled") in wishes and not undone
            elif undone:
                wishes["tls", "verify"] = True
                if owner is not None:
                    self._tell_weakened(owner, root, source)
        before = self._last.upstreams.get(upstream.id)
        sections = {name: _apply(getattr(upstream, name), name, wishes) for name in SECTIONS}
        if upstream.breaker == NO_BREAKER and any(section == "breaker" for section, _ in wishes):
            sections["breaker"] = _apply(SECTIONS["breaker"](), "breaker", wishes)
        if before is not None:
            sections |= {name: getattr(before, name) for name in sorted(frozen & SECTIONS.keys())}
        return msgspec.structs.replace(upstream, **sections)

    def _tell_weakened(self, owner: ObjectRef, root: str, target: ObjectRef) -> None:
        what = f"A wider policy has the certificates of {target} verified, and a narrower one cannot undo that."
        fix = "Remove verify: false, or change the wider policy."
        self.problems.append(Problem(owner, f"{root}.tls.verify", "PolicyConflict", what, fix))

    def route(
        self,
        route: Route,
        upstreams: Mapping[str, Upstream],
        gateways: Iterable[ObjectRef],
        own: Mapping[str, Wishes],
        *,
        kept: bool,
    ) -> Route:
        """Return the route with the policies' filters in its rules, and of the Gateway API's with retry, hedge and timeouts
        where they differ from their upstream's.

        own: what the route itself says, by `Rule.id`. kept: it is a last good version.
        """
        source = ObjectRef.parse(route.source)
        is_route = source.kind in ROUTES
        merged = self._by_target.get(source, Merged()) if is_route else Merged()
        wide = self._wide(gateways)
        before = self._last.routes.get(route.id)
        old_rules = {rule.id: rule for rule in before.rules} if before else {}
        rules = []
        for rule in route.rules:
            old = old_rules.get(rule.id)
            built = rule
            if is_route:
                wishes = {**merged.wishes, **own.get(rule.id, {})}
                for said in (wide.wishes, merged.wishes):
                    if BUDGET in said:
                        wishes[BUDGET] = said[BUDGET]  # what a route asks for is no reason to go beyond what is allowed
                if kept:
                    # Whose its settings are nobody can tell any more, and the route's own would go before a policy's.
                    wishes = {key: value for key, value in wishes.items() if getattr(rule, key[0], None) is None}
                built = self._settings(rule, upstreams, wide, wishes, merged.frozen, old)
            rules.append(
                with_filters(built, self._chain(rule, upstreams, wide, merged), old, self._upstreams, kept=kept)
            )
        if all(new is rule for new, rule in zip(rules, route.rules, strict=True)):
            return route
        return msgspec.structs.replace(route, rules=tuple(rules))

    def _settings(
        self,
        rule: Rule,
        upstreams: Mapping[str, Upstream],
        wide: Merged,
        wishes: Wishes,
        frozen: set[str],
        old: Rule | None,
    ) -> Rule:
        said = {section for section, _ in wishes} & ROUTE_SECTIONS
        names = {b.upstream for b in rule.backends if b.upstream}
        only = upstreams.get(next(iter(names))) if len(names) == 1 else None
        changes: dict[str, Any] = {}
        for name in sorted(said):
            base = getattr(rule, name)
            if base is None:
                base = getattr(only, name) if only else _apply(None, name, wide.wishes)
            found = _apply(base, name, wishes)
            if found is None:
                # A rule without a hedge takes its upstream's: one with an empty budget never hedges.
                found = msgspec.structs.replace(SECTIONS[name](), budget_ratio=0.0)
            changes[name] = found
        if old is not None:
            changes |= {name: getattr(old, name) for name in sorted(frozen & ROUTE_SECTIONS)}
        return msgspec.structs.replace(rule, **changes) if changes else rule

    def _chain(self, rule: Rule, upstreams: Mapping[str, Upstream], wide: Merged, merged: Merged) -> Chain:
        """Return what all levels say of the rule's way. Of services between which it divides its requests only what
        protects them counts: nothing else has one meaning for all.
        """
        chain = Chain(dict(wide.wishes), list(wide.limits), wide.frozen & RULE_SECTIONS, self._strays)
        sources = sorted({upstreams[b.upstream].source for b in rule.backends if b.upstream in upstreams})
        services = [ref for ref in map(ObjectRef.parse, sources) if ref.kind == "NexusService"]
        for ref in services:
            own, narrow = self._own.get(ref, Said()), self._by_target.get(ref, Merged())
            chain.limits.extend((*(own.limits or ()), *narrow.limits))
            for said in (own.wishes, narrow.wishes):
                if len(sources) > 1:
                    said = {key: value for key, value in said.items() if key in TIGHTEST}
                chain.wishes = combine(chain.wishes, said)
            if len(sources) == 1:
                chain.frozen |= (own.frozen | narrow.frozen) & RULE_SECTIONS
        chain.wishes = combine(chain.wishes, merged.wishes)
        chain.limits.extend(merged.limits)
        chain.frozen |= merged.frozen & RULE_SECTIONS
        return chain

    def _wide(self, gateways: Iterable[ObjectRef]) -> Merged:
        found = Merged()
        for gateway in sorted(gateways):
            here = self._by_target.get(gateway)
            if here is not None:
                found.frozen |= here.frozen
                found.limits.extend(here.limits)
                found.wishes = combine(here.wishes, found.wishes)
        return found


def _apply(struct: Any, section: str, wishes: Wishes) -> Any:
    """Return the section with what is said of it. None is an optional section that is off."""
    changes = {name: value for (where, name), value in wishes.items() if where == section}
    enabled = changes.pop("enabled", True)
    if not enabled:
        return None
    if struct is None and (changes or section not in OPTIONAL or (section, "enabled") in wishes):
        struct = SECTIONS[section]()
    return msgspec.structs.replace(struct, **changes) if changes else struct


def _a(kind: str) -> str:
    return f"{'an' if kind == 'HTTPRoute' else 'a'} {kind}"
