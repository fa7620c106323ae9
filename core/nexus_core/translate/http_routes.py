"""HTTPRoutes to routes: parents, matches, filters, backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from nexus_core.model import gateway_api
from nexus_core.model.kinds import GROUP
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Redirect, Route, Rule, WeightedBackend
from nexus_core.translate import hostnames
from nexus_core.translate.durations import parse_duration
from nexus_core.translate.gateways import Gateways, OpenListener
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.references import Grants
from nexus_core.translate.route_filters import FilterBuilder
from nexus_core.translate.route_matches import MatchBuilder
from nexus_core.translate.translation import ParentStatus, RouteStatus, Verdict
from nexus_core.translate.upstreams import Upstreams
from nexus_core.translate.wishes import Wishes
from nexus_core.translate.worlds import World

ACCEPTED = Verdict(True, "Accepted")
RESOLVED = Verdict(True, "ResolvedRefs")
RETRIED_CODES = range(400, 600)
"""As the Gateway API's own rule for `retry.codes`."""
MAX_ATTEMPTS = 10
"""As a NexusPolicy's retry.attempts: more would only be cut by the retry budget."""
UNRESOLVED = frozenset({"BackendNotFound", "RefNotPermitted", "InvalidKind"})
"""Reasons that cost a backend its share and nothing more (Gateway API: 500 for that share)."""


@dataclass
class Routes:
    """routes: by object. statuses: of those with a parent of ours. wishes: what rules say of timeouts and retries, by `Rule.id`.
    kept: ids of routes that are last good versions.
    """

    routes: dict[ObjectRef, Route] = field(default_factory=dict)
    statuses: list[RouteStatus] = field(default_factory=list)
    wishes: dict[str, Wishes] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def build_http_routes(world: World, last: LastGood, gateways: Gateways, upstreams: Upstreams) -> Routes:
    """Return the routes of all HTTPRoutes that name a Gateway of ours."""
    found = Routes()
    grants = Grants(world)
    for resource in world.all("HTTPRoute"):
        _Builder(world, last, gateways, upstreams, grants, found, resource).build()
    return found


class _Builder:
    """Builds one route."""

    def __init__(
        self,
        world: World,
        last: LastGood,
        gateways: Gateways,
        upstreams: Upstreams,
        grants: Grants,
        found: Routes,
        resource: Resource,
    ) -> None:
        self.world, self.last, self.gateways, self.upstreams = world, last, gateways, upstreams
        self.grants, self.found, self.resource = grants, found, resource
        self.ref = resource.ref
        self.route_id = f"HTTPRoute/{self.ref.namespace}/{self.ref.name}"
        self.problems: list[Problem] = []
        self.wishes: dict[str, Wishes] = {}

    def build(self) -> None:
        spec = self.resource.spec
        if not isinstance(spec, gateway_api.HTTPRouteSpec):
            self._keep(list(self.resource.problems), list(_readable_parents(self.resource)), ())
            return
        ours = [(raw, parent, gateway) for raw, parent, gateway in self._parents(spec.parent_refs)]
        names = tuple(h.lower() for h in spec.hostnames)
        if not ours:
            self._report_strays(spec)
            return
        rules = tuple(self._rule(index, rule) for index, rule in enumerate(spec.rules))
        refusals = [p for p in self.problems if p.reason not in UNRESOLVED]
        if refusals:
            self._keep(self.problems, spec.parent_refs, names)
            return
        attached = [(raw, gateway, *self._attach(parent, gateway, names)) for raw, parent, gateway in ours]
        opened = {o.listener.id: o for _, _, listeners, _ in attached for o in listeners}
        both = hostnames.intersect_all((o.listener.hostname for o in opened.values()), names) if opened else None
        kept = None
        if both is not None:
            route = Route(
                id=self.route_id,
                source=str(self.ref),
                listeners=tuple(sorted(opened)),
                hostnames=both,
                rules=rules,
                created_at=self.resource.created_at,
            )
            kept = self._last_resolved() if any(p.reason == "BackendNotFound" for p in self.problems) else None
            self.found.routes[self.ref] = kept or route
            if kept is None:
                self.found.wishes.update(self.wishes)
            else:
                self.found.kept.add(self.route_id)
        unresolved = next((p for p in sorted(self.problems) if p.reason in UNRESOLVED), None)
        resolved = Verdict(False, unresolved.reason, f"{unresolved.what} {unresolved.fix}") if unresolved else RESOLVED
        parents = tuple(
            ParentStatus(raw, gateway, tuple(sorted(o.listener.id for o in listeners)), accepted, resolved)
            for raw, gateway, listeners, accepted in attached
        )
        self._finish(parents, quarantined=kept is not None)

    def _keep(self, problems: list[Problem], parent_refs: Any, names: tuple[str, ...]) -> None:
        """Serve the last good version of a route that is refused as a whole."""
        parents = [(raw, parent, gateway) for raw, parent, gateway in self._parents(parent_refs)]
        kept = self.last.routes_of(self.ref)
        if not parents and not kept:
            return  # some other controller's
        for route in kept:
            self.found.routes[self.ref] = route
            self.found.kept.add(self.route_id)
        first = min(problems) if problems else None
        reason = "UnsupportedValue" if first is None or first.reason == "InvalidSpec" else first.reason
        refused = Verdict(False, reason, f"{first.path}: {first.what} {first.fix}" if first else "The route is broken.")
        self.problems = problems
        listeners = {i for route in kept for i in route.listeners}
        statuses = tuple(
            ParentStatus(raw, gateway, tuple(sorted(i for i in listeners if _is_of(i, gateway))), refused, RESOLVED)
            for raw, _, gateway in parents
        )
        self._finish(statuses, quarantined=bool(kept))

    def _last_resolved(self) -> Route | None:
        """The last good version, if every backend of it is still there."""
        for route in self.last.routes_of(self.ref):
            backends = [b for rule in route.rules for b in rule.backends]
            if backends and all(b.upstream and self.upstreams.keep(b.upstream) for b in backends):
                return route
        return None

    def _finish(self, parents: tuple[ParentStatus, ...], *, quarantined: bool) -> None:
        self.found.problems.extend(self.problems)
        self.found.statuses.append(RouteStatus(self.ref, self.resource.generation, self.route_id, parents, quarantined))

    def _parents(self, refs: Any) -> Iterator[tuple[Mapping[str, Any], gateway_api.ParentRef, ObjectRef]]:
        for parent in refs:
            if parent.group != gateway_api.GROUP or parent.kind != "Gateway":
                continue
            gateway = ObjectRef("Gateway", parent.namespace or self.ref.namespace, parent.name)
            if gateway in self.gateways.by_gateway:
                yield parent.model_dump(by_alias=True, exclude_unset=True), parent, gateway

    def _report_strays(self, spec: gateway_api.HTTPRouteSpec) -> None:
        """A route without any Gateway that exists is a mistake; one at others' Gateways is theirs."""
        if not spec.parent_refs:
            what, fix = "The route names no Gateway.", "Name one under parentRefs."
            self.found.problems.append(Problem(self.ref, ".spec.parentRefs", "NoMatchingParent", what, fix))
        for index, parent in enumerate(spec.parent_refs):
            namespace = parent.namespace or self.ref.namespace
            if parent.kind == "Gateway" and self.world.find("Gateway", namespace, parent.name) is None:
                known = ", ".join(f"{g.namespace}/{g.name}" for g in sorted(self.gateways.by_gateway))
                what = f'There is no Gateway "{parent.name}" in namespace "{namespace}".'
                path = f".spec.parentRefs[{index}].name"
                fix = f"Create it, or name one of: {known}."
                self.found.problems.append(Problem(self.ref, path, "NoMatchingParent", what, fix))

    def _attach(
        self, parent: gateway_api.ParentRef, gateway: ObjectRef, names: tuple[str, ...]
    ) -> tuple[list[OpenListener], Verdict]:
        """Return the listeners one parentRef gives, and the word on it. Reasons: Gateway API, RouteConditionReason."""
        of_gateway = self.gateways.by_gateway[gateway]
        named = [
            o for o in of_gateway if parent.section_name in (None, o.name) and parent.port in (None, o.listener.port)
        ]
        path = f".spec.parentRefs[{self._index_of(parent)}]"
        if not named:
            known = ", ".join(f"{o.name} (port {o.listener.port})" for o in of_gateway) or "none that works"
            what = f"{gateway} has no listener with that sectionName or port; it has {known}."
            return [], self._refused(
                path, "NoMatchingParent", what, "Name one of them, or leave sectionName and port out."
            )
        allowed = [o for o in named if o.allows(self.world, self.ref.namespace, self.route_id, "HTTPRoute")]
        if not allowed:
            what = f'No listener of {gateway} allows HTTPRoutes from namespace "{self.ref.namespace}".'
            fix = "Set allowedRoutes.namespaces.from: All (or a Selector) on the listener."
            return [], self._refused(path, "NotAllowedByListeners", what, fix)
        matching = [o for o in allowed if hostnames.intersect_all((o.listener.hostname,), names) is not None]
        if not matching:
            served = ", ".join(sorted({o.listener.hostname for o in allowed}))
            what = f"None of the host names {', '.join(names)} is served by {gateway}; it serves {served}."
            fix = "Use a host name of a listener, or add a listener for this one."
            return [], self._refused(".spec.hostnames", "NoMatchingListenerHostname", what, fix)
        return matching, ACCEPTED

    def _index_of(self, parent: gateway_api.ParentRef) -> int:
        spec = self.resource.spec
        return spec.parent_refs.index(parent) if isinstance(spec, gateway_api.HTTPRouteSpec) else 0

    def _refused(self, path: str, reason: str, what: str, fix: str) -> Verdict:
        self.problems.append(Problem(self.ref, path, reason, what, fix))
        return Verdict(False, reason, f"{what} {fix}")

    def _rule(self, index: int, rule: gateway_api.RouteRule) -> Rule:
        path = f".spec.rules[{index}]"
        rule_id = f"{self.route_id}/{index}"
        build_match = MatchBuilder(self.ref, self.problems).build
        matches = tuple(
            build_match(match, f"{path}.matches[{number}]")
            for number, match in enumerate(rule.matches or (gateway_api.RouteMatch(),))
        )
        filters = FilterBuilder(
            self.ref,
            self.problems,
            all_prefixes=all(m.path_kind == "prefix" for m in matches),
            resolve=self._backend,
        )
        built = filters.build(rule.filters, f"{path}.filters")
        if rule.backend_refs and any(isinstance(f, Redirect) for f in built):
            what = "A rule that redirects sends nothing to a backend."
            self._refused(f"{path}.backendRefs", "IncompatibleFilters", what, "Remove backendRefs or RequestRedirect.")
        backends = tuple(
            WeightedBackend(
                self._backend(backend, f"{path}.backendRefs[{number}]"),
                backend.weight,
                filters.build(backend.filters, f"{path}.backendRefs[{number}].filters", of_backend=True),
            )
            for number, backend in enumerate(rule.backend_refs)
        )
        if rule.timeouts is not None:
            self._timeouts(rule_id, rule.timeouts, f"{path}.timeouts")
        if rule.retry is not None:
            self._retry(rule_id, rule.retry, f"{path}.retry")
        return Rule(rule_id, matches, built, backends)

    def _backend(self, backend: gateway_api.BackendRef | gateway_api.MirrorBackendRef, path: str) -> str:
        """Return the upstream's id, or empty for a reference that leads nowhere."""
        namespace = backend.namespace or self.ref.namespace
        kinds = {("", "Service"), (GROUP, "NexusService")}
        if (backend.group, backend.kind) not in kinds:
            what = f'A backend of kind "{backend.kind}" (group "{backend.group}") is not known.'
            fix = "Use a Service, or a NexusService with group: nexus.dev."
            self._refused(f"{path}.kind", "InvalidKind", what, fix)
            return ""
        if not self.grants.permit(
            "HTTPRoute", self.ref.namespace, backend.group, backend.kind, namespace, backend.name
        ):
            what = f'Namespace "{namespace}" does not permit HTTPRoutes of "{self.ref.namespace}" to use {backend.kind} "{backend.name}".'
            fix = f'Create a ReferenceGrant in "{namespace}", or use a backend of "{self.ref.namespace}".'
            self._refused(f"{path}.namespace", "RefNotPermitted", what, fix)
            return ""
        if backend.kind == "NexusService":
            return self._nexus_service(namespace, backend.name, path)
        if backend.port is None:
            what = f'The reference to Service "{backend.name}" has no port.'
            self._refused(f"{path}.port", "InvalidSpec", what, "Set port to one of the Service's ports.")
            return ""
        upstream = self.upstreams.kubernetes_service(namespace, backend.name, backend.port)
        if isinstance(upstream, str):
            self._refused(f"{path}.name", "BackendNotFound", upstream, "Create it, or name another Service or port.")
            return ""
        return upstream.id

    def _nexus_service(self, namespace: str, name: str, path: str) -> str:
        upstream_id = f"{namespace}/{name}"
        if upstream_id in self.upstreams.by_id:
            return upstream_id
        if self.world.find("NexusService", namespace, name) is not None:
            what = f'NexusService "{name}" in namespace "{namespace}" is broken and never worked.'
            self._refused(f"{path}.name", "BackendNotFound", what, "Mend it; its own conditions say how.")
            return ""
        known = [r.ref.name for r in self.world.all("NexusService") if r.ref.namespace == namespace][:10]
        what = f'"{name}" is not a NexusService in namespace "{namespace}".'
        fix = f"Create it, or name one of: {', '.join(known)}." if known else "Create it."
        self._refused(f"{path}.name", "BackendNotFound", what, fix)
        return ""

    def _timeouts(self, rule_id: str, timeouts: gateway_api.RouteTimeouts, path: str) -> None:
        found: list[float | None] = []
        for name, text in (("request", timeouts.request), ("backendRequest", timeouts.backend_request)):
            found.append(self._duration(text, f"{path}.{name}") if text is not None else None)
        request_s, try_s = found
        if request_s and try_s and try_s > request_s:
            what = f"backendRequest ({try_s:g} s) is longer than request ({request_s:g} s)."
            self._refused(f"{path}.backendRequest", "InvalidSpec", what, "Make it shorter than request.")
        said = {("timeouts", "request_s"): request_s, ("timeouts", "try_s"): try_s}
        self.wishes.setdefault(rule_id, {}).update({k: v for k, v in said.items() if v is not None})

    def _duration(self, text: str, path: str) -> float | None:
        seconds = parse_duration(text)
        if seconds is None:
            self._refused(
                path, "InvalidSpec", f'"{text[:40]}" is no duration.', 'Write it like "10s", "500ms" or "1m30s".'
            )
        return seconds

    def _retry(self, rule_id: str, retry: gateway_api.RouteRetry, path: str) -> None:
        """Gateway API: what never reached a backend, or got no answer, is repeated whenever `retry` is there."""
        outcomes: set[str] = {"connect-failure", "reset", "timeout"}
        for index, code in enumerate(retry.codes):
            if code in RETRIED_CODES:
                outcomes.add(str(code))
            else:
                what = f"{code} is no status of an error."
                self._refused(f"{path}.codes[{index}]", "UnsupportedValue", what, "Name statuses from 400 to 599.")
        said: Wishes = {("retry", "on"): tuple(sorted(outcomes))}
        if retry.attempts is not None:
            said["retry", "attempts"] = min(retry.attempts, MAX_ATTEMPTS)
        if retry.backoff is not None:
            seconds = self._duration(retry.backoff, f"{path}.backoff")
            if seconds is not None:
                said["retry", "backoff_s"] = seconds
        self.wishes.setdefault(rule_id, {}).update(said)


def _readable_parents(resource: Resource) -> Iterator[gateway_api.ParentRef]:
    """The parents of a route whose spec is broken, as far as they can be read."""
    spec = resource.raw.get("spec")
    parents = spec.get("parentRefs") if isinstance(spec, dict) else None
    for parent in parents if isinstance(parents, list) else []:
        try:
            yield gateway_api.ParentRef.model_validate(parent)
        except pydantic.ValidationError:
            continue


def _is_of(listener_id: str, gateway: ObjectRef) -> bool:
    return listener_id.startswith(f"{gateway.namespace}/{gateway.name}/")
