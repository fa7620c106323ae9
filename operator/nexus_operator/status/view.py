"""Everything a status may depend on, at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nexus_core.marketplace import Index
from nexus_core.marketplace.locks import Lock
from nexus_core.model.kinds import CONTROLLER_NAME
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.problems.catalogue import REASONS
from nexus_core.snapshot import Listener, Published, gateway_of
from nexus_core.translate import Translation

from nexus_operator.publication.figures import Figure
from nexus_operator.publication.fleets import Fleet
from nexus_operator.publication.previews import Preview
from nexus_operator.publication.servicereports import Hosting
from nexus_operator.status.conditions import Condition, from_problems
from nexus_operator.world.addresses import Address, url_of
from nexus_operator.world.inventory import Inventory

PAGES = {reason: info.page for reason, info in REASONS.items()}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the newest index of a marketplace is not there. what, fix: sentences. stale: an older one is in use."""

    reason: str
    what: str
    fix: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Front:
    """The Service of a data plane. exists: it is there. addresses: where clients reach it. ready: replicas behind it that take traffic.
    ports: that it opens, of TCP and UDP alike.
    """

    exists: bool
    addresses: tuple[Address, ...] = ()
    ready: int = 0
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is wanted (resources, translation), what is (inventory, published, fleet, counts), and what is in the way.

    wanted: fingerprint of each object's part of `translation.snapshot`, by source. since: see `Ledger.since`.
    fleet: the gateways' acks. counts: (ready, all) mirrored endpoints by registry name. mirrored: all names there that the
    operator writes. named: Services, as (namespace, name), with EndpointSlices of host names, which are not mirrored.
    consul_fault: why Consul cannot be used now, or empty. fronts: what stands before the replicas of each Gateway that has a data
    plane, by `<namespace>/<name>`. listeners: those that are wanted, by id. gateway_url: configured base of the URLs shown, or
    empty. preview: of the objects that are held back, None without any. candidate_problems: what is wrong if they were applied.
    locks, figures: of plugins, by `<namespace>/<name>`; hostings: what services say of them, by the same. metadata: what statuses of
    marketplaces hold of the metadata that was trusted last, by name.
    """

    inventory: Inventory
    resources: tuple[Resource, ...]
    translation: Translation
    published: Published | None
    wanted: Mapping[str, int]
    since: Callable[[str, int], int | None]
    fleet: Fleet
    now_utc: str
    docs_base: str
    child_problems: tuple[Problem, ...] = ()
    consul_fault: str = ""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    mirrored: frozenset[str] = frozenset()
    named: frozenset[tuple[str, str]] = frozenset()
    fronts: Mapping[str, Front] = field(default_factory=dict)
    listeners: Mapping[str, Listener] = field(default_factory=dict)
    gateway_url: str = ""
    indexes: Mapping[str, Index] = field(default_factory=dict)
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    preview: Preview | None = None
    candidate_problems: tuple[Problem, ...] = ()
    locks: Mapping[str, Lock] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    hostings: Mapping[str, tuple[Hosting, ...]] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    controller_name: str = CONTROLLER_NAME
    _live: dict[tuple[int, frozenset[str] | None], Condition] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # thousands of routes have few answers among them

    def problems(self) -> dict[ObjectRef, list[Problem]]:
        """Return all problems by object, in order."""
        found: dict[ObjectRef, list[Problem]] = {}
        for problem in (*self.translation.problems, *self.child_problems):
            found.setdefault(problem.where, []).append(problem)
        return found

    def verdict(self, condition: str, problems: list[Problem], *, fallback: bool = False) -> Condition:
        """Return a condition of an object from its problems: False with those that belong to it, else True.

        fallback: also take problems whose condition the object does not have.
        """
        mine = [
            p for p in problems if condition_of(p) == condition or (fallback and condition_of(p) not in OWN_CONDITIONS)
        ]
        if not mine:
            return Condition(condition, "True", condition)
        return from_problems(condition, mine, docs_base=self.docs_base, pages=PAGES)

    def linked(self, reason: str, message: str) -> str:
        """Return the message with the link to the reason's page, where there is one."""
        page = PAGES.get(reason)
        return f"{message} → {self.docs_base}{page}" if page else message

    def programmed(self, source: str, gateways: frozenset[str] | None = None) -> Condition:
        """Return `Programmed`: whether every live gateway serves the object's present part of the Snapshot.

        gateways: `<namespace>/<name>` of the Gateways whose processes count; None for all.
        """
        fingerprint = self.wanted.get(source)
        if fingerprint is None:
            what = "Nothing of it is in the gateways' configuration."
            return Condition("Programmed", "False", "NotProgrammed", self.linked("NotProgrammed", what))
        generation = self.since(source, fingerprint)
        if self.published is None or generation is None:
            if self.consul_fault:
                what = f"It is not published yet: {self.consul_fault} Gateways keep serving what they have; it is tried again."
                return Condition("Programmed", "False", "ConsulUnreachable", self.linked("ConsulUnreachable", what))
            return Condition("Programmed", "Unknown", "Pending", "It is being published.")
        found = self._live.get((generation, gateways))
        if found is None:
            found = self._live[generation, gateways] = self._live_at(generation, gateways)
        return found

    def _live_at(self, generation: int, gateways: frozenset[str] | None) -> Condition:
        state = self.fleet.liveness(generation, gateways)
        if state.everywhere:
            return Condition("Programmed", "True", "Programmed", str(state))
        if not state.total and (refused := self._not_made(gateways)):
            return Condition("Programmed", "False", "NoGateways", self.linked("NoGateways", refused))
        if not state.total:
            what = "No gateway is running, or none reaches Consul. Look at the gateway's pods and their log."
            return Condition("Programmed", "False", "NoGateways", self.linked("NoGateways", what))
        return Condition("Programmed", "False", "Pending", str(state))

    def _not_made(self, gateways: frozenset[str] | None) -> str:
        """Return why none of these Gateways has a data plane, where that is decided; else nothing."""
        known = {f"{s.ref.namespace}/{s.ref.name}": s for s in self.translation.gateways}
        found = [known[name] for name in sorted(gateways or ()) if name in known]
        refused = [s for s in found if not s.accepted.ok and not s.infrastructure.usable]
        if not gateways or len(refused) < len(gateways):
            return ""
        lines = (
            f"No gateway is running, and none is made while {s.ref} is refused: {s.accepted.message}" for s in refused
        )
        return "\n".join(lines)

    def obstacle(self, gateway: str, listeners: Iterable[str]) -> tuple[str, str]:
        """Return why clients cannot reach all of these listeners though every replica has them: reason and sentence; empty when they can.

        gateway: `<namespace>/<name>`. One whose data plane is not the operator's is taken to be reached.
        """
        front = self.fronts.get(gateway)
        if front is None:
            return "", ""
        unopened = self.fleet.unopened(gateway)
        closed: set[int] = set()
        for name in listeners:
            if name in unopened:
                return "ListenerNotOpen", self.linked("ListenerNotOpen", unopened[name])
            listener = self.listeners.get(name)
            if listener is not None and listener.port not in front.ports:
                closed.add(listener.port)
        if closed:
            return "Pending", f"The Gateway's Service does not open port {min(closed)} yet."
        if not front.ready:
            return "Pending", "No replica of the Gateway takes traffic yet."
        return "", ""

    def base_url(self, listeners: Sequence[str]) -> str:
        """Return what paths are appended to at one of these listeners: the configured URL, else the first address, else nothing."""
        if self.gateway_url:
            return self.gateway_url
        for name in listeners:
            listener, front = self.listeners.get(name), self.fronts.get(gateway_of(name))
            if listener is not None and front is not None and front.addresses:
                scheme = "https" if listener.protocol == "HTTPS" else "http"
                return url_of(front.addresses[0].value, listener.port, scheme)
        return ""


OWN_CONDITIONS = frozenset({"Accepted", "ResolvedRefs", "WorkloadReady", "Programmed", "Ready"})
_LOCAL = {"ChildConflict": "WorkloadReady", "ChildRefused": "WorkloadReady"}


def condition_of(problem: Problem) -> str:
    """Return which condition shows the problem."""
    info = REASONS.get(problem.reason)
    return info.condition if info is not None else _LOCAL.get(problem.reason, "Accepted")
