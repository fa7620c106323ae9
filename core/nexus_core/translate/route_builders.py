"""What building a route is for every kind: read its parents, build its rules, attach it, keep its last good version.

A route's translation depends on its manifest, the listeners of the parents it names, labels of its namespace, ReferenceGrants,
the Services, NexusServices and BackendTLSPolicies that it names, and the Snapshot published before, as far as it holds the route.
On no other route: what two routes have with each other is settled afterwards (`route_conflicts`). So its result may be kept
for as long as these stay as they are; the upstreams it names have to be asked for again (`Upstreams.keep`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nexus_core.model import gateway_api
from nexus_core.model.base import Model
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Route, StreamRoute, gateway_of
from nexus_core.translate import hostnames, unread
from nexus_core.translate.asking import Asking
from nexus_core.translate.backends import UNRESOLVED, Backends
from nexus_core.translate.gateways import Gateways
from nexus_core.translate.leave import Leave
from nexus_core.translate.parents import Attachment, Parents, is_of, readable_parents
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.references import Grants
from nexus_core.translate.translation import ParentStatus, RouteStatus, Verdict
from nexus_core.translate.upstreams import Upstreams, service_of
from nexus_core.translate.wishes import Wishes
from nexus_core.translate.worlds import World

RESOLVED = Verdict(True, "ResolvedRefs")

Item = TypeVar("Item", Route, StreamRoute)
RulesT = TypeVar("RulesT")


@dataclass(slots=True)
class Routes:
    """routes, streams: by object. statuses: of those with a parent of ours. wishes: what rules say of timeouts and retries, by
    `Rule.id`. kept: ids of routes that are last good versions. uses: Gateways by (namespace, name, port) of the Kubernetes Services
    that their routes name.
    """

    routes: dict[ObjectRef, Route] = field(default_factory=dict)
    streams: dict[ObjectRef, StreamRoute] = field(default_factory=dict)
    statuses: list[RouteStatus] = field(default_factory=list)
    wishes: dict[str, Wishes] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    uses: dict[tuple[str, str, int], set[ObjectRef]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def absorb(self, one: Routes) -> None:
        """Take in what one route gave."""
        self.routes.update(one.routes)
        self.statuses += one.statuses
        for service, gateways in one.uses.items():
            known = self.uses.get(service)
            if known is None:
                self.uses[service] = set(gateways)
            else:
                known |= gateways
        # Most routes have none of these.
        if one.streams:
            self.streams.update(one.streams)
        if one.wishes:
            self.wishes.update(one.wishes)
        if one.kept:
            self.kept |= one.kept
        if one.problems:
            self.problems += one.problems


class Surroundings:
    """What all routes are built from. asking: what of it may differ from one world to the next. found: what the route that is being
    built gives.
    """

    def __init__(self, world: World, last: LastGood, gateways: Gateways, upstreams: Upstreams) -> None:
        self.world, self.last, self.upstreams = world, last, upstreams
        self.asking = Asking(world, gateways, Grants(world), upstreams)
        self.parents = Parents(world, gateways, self.asking)
        self.leave = Leave(world)
        self.found = Routes()


class RouteBuilder(ABC, Generic[Item, RulesT]):
    """Builds one route. Subclasses say what its rules become, and where its last good version is."""

    spec: type[Model]

    def __init__(self, around: Surroundings, resource: Resource) -> None:
        self.around, self.resource = around, resource
        self.ref = resource.ref
        self.route_id = f"{self.ref.kind}/{self.ref.namespace}/{self.ref.name}"
        self.problems: list[Problem] = []
        self.wishes: dict[str, Wishes] = {}
        self.backends = Backends(around.world, around.asking, self.ref, self.problems)

    @abstractmethod
    def rules(self, spec: Any) -> RulesT:
        """Return the rules. What is wrong goes into `problems`."""

    @abstractmethod
    def item(self, listeners: tuple[str, ...], names: tuple[str, ...], rules: RulesT) -> Item:
        """Return the route."""

    @abstractmethod
    def last(self) -> tuple[Item, ...]:
        """Return the last good version, of one item at most."""

    @abstractmethod
    def place(self) -> dict[ObjectRef, Item]:
        """Return where items of this kind are gathered."""

    @abstractmethod
    def upstreams_of(self, item: Item) -> Iterable[str]:
        """Return the upstreams of the item's backends, in order; empty ones for those that lead nowhere."""

    def build(self) -> None:
        """Put the route, its status and its problems where they belong."""
        spec = self.resource.spec
        left_out, refused = unread.tolerate(self.resource)
        if not isinstance(spec, self.spec):
            self._keep(refused, list(readable_parents(self.resource)))
            return
        parent_refs: Sequence[gateway_api.ParentRef] = spec.parent_refs  # type: ignore[attr-defined]
        ours = self.around.parents.ours(self.ref, parent_refs)
        if not ours:
            self.around.asking.trouble()
            self.around.found.problems.extend(self.around.parents.strays(self.ref, parent_refs))
            if not parent_refs:  # nobody else's either: what of it is not read belongs to the same mistake
                self.around.found.problems.extend(left_out + refused)
            return
        names = tuple(dict.fromkeys(h.lower() for h in getattr(spec, "hostnames", ())))
        self.problems.extend(left_out)
        self.problems.extend(refused)
        rules = self.rules(spec)
        if any(_refuses(p) for p in self.problems):
            self._keep(self.problems, parent_refs)
            return
        attach = self.around.parents.attach
        attached = [attach(self.ref, self.route_id, named, names, self.problems) for named in ours]
        kept = self._serve(attached, names, rules)
        unresolved = min((p for p in self.problems if p.reason in UNRESOLVED), default=None)
        resolved = Verdict(False, unresolved.reason, f"{unresolved.what} {unresolved.fix}") if unresolved else RESOLVED
        parents = tuple(
            ParentStatus(
                a.named.raw,
                self.around.parents.gateway(a.named),
                tuple(sorted(o.listener.id for o in a.listeners)),
                a.accepted,
                resolved,
                a.named.index,
            )
            for a in attached
        )
        self._finish(parents, quarantined=kept)

    def _serve(self, attached: Sequence[Attachment], names: tuple[str, ...], rules: RulesT) -> bool:
        """Put the route in its place, if a listener that is open takes it. Returns whether that is the last good version instead."""
        found = self.around.found
        gateways = {o.gateway for a in attached for o in a.listeners}
        for service in self.backends.services if gateways else ():
            found.uses.setdefault(service, set()).update(gateways)
        opened = {o.listener.id: o for a in attached for o in a.listeners if o.serves}
        both = hostnames.intersect_all((o.listener.hostname for o in opened.values()), names) if opened else None
        if both is None:
            return False
        kept = self._last_resolved() if any(p.reason == "BackendNotFound" for p in self.problems) else None
        if kept is None:
            self.place()[self.ref] = self.item(tuple(sorted(opened)), both, rules)
            found.wishes.update(self.wishes)
            return False
        self.place()[self.ref] = kept
        found.kept.add(self.route_id)
        return True

    def _keep(self, problems: list[Problem], parent_refs: Sequence[gateway_api.ParentRef]) -> None:
        """Serve the last good version of a route that is refused as a whole."""
        self.around.asking.trouble()
        ours = self.around.parents.ours(self.ref, parent_refs)
        kept = self.last()
        if not ours and not kept:
            return  # some other controller's
        self.problems = problems
        listeners = {i for item in kept for i in item.listeners}
        for item in kept:
            self.place()[self.ref] = item
            self.around.found.kept.add(self.route_id)
            self._use(item, listeners)
        refusals = [p for p in problems if _refuses(p)]
        first = min(refusals) if refusals else None
        reason = "UnsupportedValue" if first is None or first.reason == "InvalidSpec" else first.reason
        refused = Verdict(False, reason, f"{first.path}: {first.what} {first.fix}" if first else "The route is broken.")
        parents = tuple(
            ParentStatus(
                named.raw,
                self.around.parents.gateway(named),
                tuple(sorted(i for i in listeners if is_of(i, named.ref))),
                refused,
                RESOLVED,
                named.index,
            )
            for named in ours
        )
        self._finish(parents, quarantined=bool(kept))

    def _use(self, item: Item, listeners: Iterable[str]) -> None:
        """Say that a kept route still uses its Services."""
        gateways = {ObjectRef("Gateway", *gateway_of(i).split("/", 1)) for i in listeners}
        for service in filter(None, map(service_of, self.upstreams_of(item))):
            self.around.found.uses.setdefault(service[:3], set()).update(gateways)

    def _last_resolved(self) -> Item | None:
        """The last good version, if every backend of it is still there, and still permitted."""
        self.around.asking.trouble()
        for item in self.last():
            backends = list(self.upstreams_of(item))
            if backends and all(name and self._may_keep(name) for name in backends):
                return item
        return None

    def _may_keep(self, upstream: str) -> bool:
        return self.around.leave.permits(self.ref, upstream) and self.around.upstreams.keep(upstream)

    def _finish(self, parents: tuple[ParentStatus, ...], *, quarantined: bool) -> None:
        found = self.around.found
        found.problems.extend(self.problems)
        remarks = unread.remark_of(self.problems) if self.problems else ()
        found.statuses.append(
            RouteStatus(self.ref, self.resource.generation, self.route_id, parents, quarantined, remarks)
        )

    def refuse(self, path: str, reason: str, what: str, fix: str) -> None:
        """Say what is wrong at a path."""
        self.problems.append(Problem(self.ref, path, reason, what, fix))


def _refuses(problem: Problem) -> bool:
    """Whether a route with this problem is not served as it is."""
    return problem.reason not in UNRESOLVED and problem.reason != unread.REASON
