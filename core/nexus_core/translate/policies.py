"""NexusPolicies merged into upstreams and rules.

From wide to narrow, field by field: a policy on a Gateway, the service's own `spec.policy`, a policy on the service.
For the rules of an HTTPRoute: what their upstream says, a policy on the route, the route's own `timeouts`.
Between two policies on one target the older wins, and the younger is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic

from nexus_core.model import policies as model
from nexus_core.model.base import Model
from nexus_core.model.resources import Resource
from nexus_core.model.services import NexusServiceSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Balancing, CircuitBreaker, Retry, Route, Rule, Timeouts, Upstream
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.targets import Targets
from nexus_core.translate.translation import PolicyStatus, Verdict
from nexus_core.translate.worlds import World, precedence

Wishes = dict[tuple[str, str], Any]
"""Values by (section, field) of the Snapshot's structs, as `("retry", "attempts")`; what is not there is not said."""

SECTIONS: Mapping[str, type[Any]] = {
    "balancing": Balancing,
    "breaker": CircuitBreaker,
    "retry": Retry,
    "timeouts": Timeouts,
}


@dataclass(frozen=True, slots=True)
class _Field:
    """written: model attributes of section and field. stored: section and field in the Snapshot."""

    written: tuple[str, str]
    stored: tuple[str, str]
    convert: Callable[[Any], Any] = lambda value: value


FIELDS = (
    _Field(("load_balancing", "algorithm"), ("balancing", "algorithm")),
    _Field(("circuit_breaker", "failures"), ("breaker", "failures")),
    _Field(("circuit_breaker", "reset_seconds"), ("breaker", "reset_s"), float),
    _Field(("retry", "attempts"), ("retry", "attempts")),
    _Field(("retry", "when"), ("retry", "on"), lambda when: tuple(sorted(set(when)))),
    _Field(("retry", "budget_percent"), ("retry", "budget_ratio"), lambda percent: percent / 100),
    _Field(("timeouts", "request_seconds"), ("timeouts", "request_s"), float),
    _Field(("timeouts", "try_timeout_seconds"), ("timeouts", "try_s"), float),
    _Field(("timeouts", "connect_seconds"), ("timeouts", "connect_s"), float),
    _Field(("timeouts", "idle_seconds"), ("timeouts", "idle_s"), float),
)
SECTION_OF = {"load_balancing": "balancing", "circuit_breaker": "breaker", "retry": "retry", "timeouts": "timeouts"}
SECTION_MODELS: Mapping[str, type[Model]] = {
    "load_balancing": model.LoadBalancing,
    "circuit_breaker": model.CircuitBreaker,
    "retry": model.Retry,
    "timeouts": model.Timeouts,
}
ROUTE_SECTIONS = frozenset({"retry", "timeouts"})


@dataclass
class Merged:
    """What all policies say of one target. frozen: sections that keep their last good values, because a policy is broken there."""

    wishes: Wishes = field(default_factory=dict)
    owners: dict[tuple[str, str], ObjectRef] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)


class Policies:
    """All NexusPolicies, by target."""

    def __init__(self, world: World, last: LastGood, targets: Targets) -> None:
        self._world, self._last = world, last
        self._by_target: dict[ObjectRef, Merged] = {}
        self.problems: list[Problem] = []
        self.statuses: list[PolicyStatus] = []
        for resource in sorted(world.all("NexusPolicy"), key=precedence):
            self._add(resource, targets)
        self.statuses.sort(key=lambda status: status.ref)

    def _add(self, resource: Resource, targets: Targets) -> None:
        ref = resource.ref
        self.problems.extend(resource.problems)
        if isinstance(resource.spec, model.NexusPolicySpec):
            found, missing = targets.resolve(ref, resource.spec.target_refs)
            wishes, frozen = wishes_of(resource.spec), set[str]()
            self.problems.extend(missing)
            self._tell_unused(ref, resource.spec)
            verdict = Verdict(True, "Accepted")
            if missing:
                verdict = Verdict(bool(found), "TargetNotFound", f"{missing[0].what} {missing[0].fix}")
        else:
            found, _ = targets.resolve(ref, targets.readable(resource))
            wishes, frozen = _salvage(resource)
            first = resource.problems[0] if resource.problems else None
            message = f"{first.path}: {first.what} {first.fix}" if first else "The policy is broken."
            verdict = Verdict(False, "InvalidSpec", message)
        self.statuses.append(PolicyStatus(ref, resource.generation, tuple(sorted(found)), verdict))
        for target in found:
            self._merge(ref, target, wishes, frozen)

    def _merge(self, ref: ObjectRef, target: ObjectRef, wishes: Wishes, frozen: set[str]) -> None:
        merged = self._by_target.setdefault(target, Merged())
        merged.frozen |= frozen
        for key, value in wishes.items():
            if key not in merged.wishes:
                merged.wishes[key] = value
                merged.owners[key] = ref
            elif merged.wishes[key] != value:
                name = _path_of(key)
                what = f"{merged.owners[key]} already sets {name} for {target}, to another value, and has precedence."
                fix = "Say it in one of the two policies only."
                self.problems.append(Problem(ref, f".spec.{name}", "PolicyConflict", what, fix))

    def _tell_unused(self, ref: ObjectRef, spec: model.NexusPolicySpec) -> None:
        if all(target.kind == "HTTPRoute" for target in spec.target_refs):
            for attribute, name in (("load_balancing", "loadBalancing"), ("circuit_breaker", "circuitBreaker")):
                if getattr(spec, attribute) is not None:
                    what = f"{name} has no effect on an HTTPRoute: it belongs to what is called, not to the way there."
                    fix = "Target the NexusService, or remove it."
                    self.problems.append(Problem(ref, f".spec.{name}", "UnsupportedValue", what, fix))

    def upstream(self, upstream: Upstream, gateways: Iterable[ObjectRef], *, kept: bool) -> Upstream:
        """Return the upstream with what policies say. gateways: those whose routes lead to it. kept: it is a last good version."""
        source = ObjectRef.parse(upstream.source)
        resource = self._world.find(source.kind, source.namespace, source.name)
        own: Wishes = {}
        wide = self._wide(gateways)
        frozen = set(wide.frozen)
        if source.kind == "NexusService":
            narrow = self._by_target.get(source, Merged())
            frozen |= narrow.frozen
            if resource is not None and isinstance(resource.spec, NexusServiceSpec):
                own = wishes_of(resource.spec.policy) if resource.spec.policy else {}
            if kept:
                wide = Merged()  # they are in its values already
            wishes = {**wide.wishes, **own, **narrow.wishes}
        else:
            wishes = wide.wishes
        before = self._last.upstreams.get(upstream.id)
        sections = {name: _apply(getattr(upstream, name), name, wishes) for name in SECTIONS}
        if before is not None:
            sections |= {name: getattr(before, name) for name in sorted(frozen)}
        return msgspec.structs.replace(upstream, **sections)

    def route(
        self,
        route: Route,
        upstreams: Mapping[str, Upstream],
        gateways: Iterable[ObjectRef],
        timeouts: Mapping[str, tuple[float | None, float | None]],
    ) -> Route:
        """Return an HTTPRoute's route with retry and timeouts in its rules where they differ from their upstream's.

        timeouts: the route's own (request_s, try_s) by `Rule.id`.
        """
        merged = self._by_target.get(ObjectRef.parse(route.source), Merged())
        wishes = {key: value for key, value in merged.wishes.items() if key[0] in ROUTE_SECTIONS}
        frozen = merged.frozen & ROUTE_SECTIONS
        if not wishes and not frozen and not any(rule.id in timeouts for rule in route.rules):
            return route
        before = self._last.routes.get(route.id)
        old_rules = {rule.id: rule for rule in before.rules} if before else {}
        wide = self._wide(gateways).wishes
        rules = []
        for rule in route.rules:
            request_s, try_s = timeouts.get(rule.id, (None, None))
            own: Wishes = {("timeouts", "request_s"): request_s, ("timeouts", "try_s"): try_s}
            said = wishes | {key: value for key, value in own.items() if value is not None}
            built = _rule(rule, upstreams, wide, said)
            old = old_rules.get(rule.id)
            if old is not None:
                built = msgspec.structs.replace(built, **{name: getattr(old, name) for name in sorted(frozen)})
            rules.append(built)
        return msgspec.structs.replace(route, rules=tuple(rules))

    def _wide(self, gateways: Iterable[ObjectRef]) -> Merged:
        found = Merged()
        for gateway in sorted(gateways):
            here = self._by_target.get(gateway)
            if here is not None:
                found.frozen |= here.frozen
                found.wishes = {**here.wishes, **found.wishes}
        return found


def wishes_of(spec: model.PolicyFields) -> Wishes:
    """Return what is said, in the Snapshot's terms."""
    found: Wishes = {}
    for item in FIELDS:
        section = getattr(spec, item.written[0])
        value = getattr(section, item.written[1]) if section is not None else None
        if value is not None:
            found[item.stored] = item.convert(value)
    return found


def _rule(rule: Rule, upstreams: Mapping[str, Upstream], wide: Wishes, said: Wishes) -> Rule:
    names = {b.upstream for b in rule.backends if b.upstream}
    only = upstreams.get(next(iter(names))) if len(names) == 1 else None
    changes: dict[str, Any] = {}
    for name in sorted(ROUTE_SECTIONS):
        if not any(section == name for section, _ in said):
            continue
        base = getattr(rule, name) or (getattr(only, name) if only else _apply(SECTIONS[name](), name, wide))
        changes[name] = _apply(base, name, said)
    return msgspec.structs.replace(rule, **changes) if changes else rule


def _apply(struct: Any, section: str, wishes: Wishes) -> Any:
    changes = {name: value for (where, name), value in wishes.items() if where == section}
    return msgspec.structs.replace(struct, **changes) if changes else struct


def _salvage(resource: Resource) -> tuple[Wishes, set[str]]:
    """What a broken policy still says: its sound sections; and the broken ones, which keep their last good values."""
    raw = resource.raw.get("spec")
    wishes: Wishes = {}
    frozen: set[str] = set()
    if not isinstance(raw, dict):
        return wishes, frozen
    for attribute, kind in SECTION_MODELS.items():
        written = model.PolicyFields.model_fields[attribute].alias or attribute
        if raw.get(written) is None:
            continue
        try:
            section = kind.model_validate_json(json.dumps(raw[written], allow_nan=False))
        except (pydantic.ValidationError, TypeError, ValueError, RecursionError, OverflowError):
            frozen.add(SECTION_OF[attribute])
        else:
            wishes |= wishes_of(model.PolicyFields.model_validate({attribute: section}))
    return wishes, frozen


def _path_of(key: tuple[str, str]) -> str:
    written = next(item.written for item in FIELDS if item.stored == key)
    section = model.PolicyFields.model_fields[written[0]].alias or written[0]
    return f"{section}.{SECTION_MODELS[written[0]].model_fields[written[1]].alias or written[1]}"
