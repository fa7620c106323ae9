"""Gateways and their ListenerSets to listeners: which are open, for whom, with which certificates.

1. The Gateways of our classes. 2. Of each, the listeners of its own and of the ListenerSets that it allows, each judged by itself.
3. Ports are given out by precedence: the Gateway, then ListenerSets by age and name. 4. Statuses, and what goes into the Snapshot.

A Gateway or ListenerSet that cannot be read keeps its last good listeners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from nexus_core.model import gateway_api
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Certificate, GatewayPart, Listener
from nexus_core.translate import listener_sets, unread
from nexus_core.translate.client_validation import ClientValidation
from nexus_core.translate.features import KINDS_OF_PROTOCOL
from nexus_core.translate.infrastructure import Found, Infrastructures
from nexus_core.translate.listener_conflicts import Claims, overlaps
from nexus_core.translate.listener_rules import Judge
from nexus_core.translate.listeners import ACCEPTED, RESOLVED, Draft, OpenListener
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.references import Grants
from nexus_core.translate.server_certificates import Certificates
from nexus_core.translate.translation import (
    ClassStatus,
    GatewayStatus,
    Infrastructure,
    ListenerSetStatus,
    Remark,
    Verdict,
)
from nexus_core.translate.worlds import World

if TYPE_CHECKING:
    from nexus_core.certificates.sealing import Sealer

__all__ = ["DEFAULT_GATEWAY", "Gateways", "OpenListener", "build_gateways"]

DEFAULT_GATEWAY = ObjectRef("Gateway", "nexus", "default")
"""Stands in while there is no Gateway of ours, so that `expose` works without one."""


@dataclass
class Gateways:
    """by_gateway, by_set: the listeners that routes may attach to, open or not, of each Gateway and ListenerSet of ours, in its order;
    those of a Gateway are its own alone. statuses, sets: without attached routes yet. refusals: why one has no listeners at all.
    """

    by_gateway: dict[ObjectRef, tuple[OpenListener, ...]] = field(default_factory=dict)
    by_set: dict[ObjectRef, tuple[OpenListener, ...]] = field(default_factory=dict)
    statuses: list[GatewayStatus] = field(default_factory=list)
    sets: list[ListenerSetStatus] = field(default_factory=list)
    classes: list[ClassStatus] = field(default_factory=list)
    parts: list[GatewayPart] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    refusals: dict[ObjectRef, str] = field(default_factory=dict)
    _gateway_of_set: dict[ObjectRef, ObjectRef] = field(default_factory=dict)

    def listeners_of(self, parent: ObjectRef) -> tuple[OpenListener, ...] | None:
        """Return the listeners of a Gateway or ListenerSet that routes may attach to; None when it is not one of ours."""
        found = self.by_gateway.get(parent)
        return self.by_set.get(parent) if found is None else found

    def refusal_of(self, parent: ObjectRef) -> str:
        """Return why a Gateway or ListenerSet of ours has no listeners at all, in sentences; empty when it has some."""
        return self.refusals.get(parent, "")

    def gateway_of(self, parent: ObjectRef) -> ObjectRef:
        """Return the Gateway that a parent of ours is, or belongs to."""
        return self._gateway_of_set.get(parent, parent)

    def add_set(self, status: ListenerSetStatus, listeners: tuple[OpenListener, ...]) -> None:
        """Note a ListenerSet and its listeners."""
        self.sets.append(status)
        self.by_set[status.ref] = listeners
        if not listeners:
            self.refusals[status.ref] = status.accepted.message
        self._gateway_of_set[status.ref] = status.gateway

    def listeners(self) -> Iterable[OpenListener]:
        """Yield all listeners that serve, sorted by Gateway, then by ListenerSet."""
        for group in (self.by_gateway, self.by_set):
            for ref in sorted(group):
                yield from (o for o in group[ref] if o.serves)


def build_gateways(world: World, last: LastGood, sealer: Sealer | None = None) -> Gateways:
    """Return the listeners of all Gateways of ours, or the default one when there are none. sealer: of private keys."""
    found = Gateways()
    grants = Grants(world)
    certificates = Certificates(world, last, grants, sealer)
    infrastructures = Infrastructures(world)
    found.classes, found.problems = infrastructures.statuses, infrastructures.problems
    ours = [r for r in world.all("Gateway") if _class_of(r) in world.class_names or r.ref in world.standing]
    sets = listener_sets.by_gateway(world, last, frozenset(r.ref for r in ours), found.problems)
    for resource in ours:
        _Builder(found, world, last, grants, certificates, resource).build(infrastructures, sets.get(resource.ref, ()))
    if not ours:
        listener = Listener("nexus/default/http", str(DEFAULT_GATEWAY), 80)
        only = OpenListener(
            listener, DEFAULT_GATEWAY, "http", DEFAULT_GATEWAY, KINDS_OF_PROTOCOL["HTTP"], is_default=True
        )
        found.by_gateway[DEFAULT_GATEWAY] = (only,)
    found.sets.sort(key=lambda status: status.ref)
    shown = [
        (c, o.listener.gateway)
        for o in found.listeners()
        if o.listener.tls is not None
        for c in o.listener.tls.certificates
    ]
    found.certificates = certificates.seal([*shown, *((part.client_certificate, part.id) for part in found.parts)])
    return found


def _class_of(resource: Resource) -> str:
    if isinstance(resource.spec, gateway_api.GatewaySpec):
        return resource.spec.gateway_class_name
    spec = resource.raw.get("spec")
    name = spec.get("gatewayClassName") if isinstance(spec, dict) else None
    return name if isinstance(name, str) else ""


class _Builder:
    """Builds one Gateway with its ListenerSets."""

    def __init__(
        self,
        found: Gateways,
        world: World,
        last: LastGood,
        grants: Grants,
        certificates: Certificates,
        resource: Resource,
    ) -> None:
        self.found, self.world, self.last, self.resource = found, world, last, resource
        self.ref = resource.ref
        self.certificates = certificates
        self.spec = resource.spec if isinstance(resource.spec, gateway_api.GatewaySpec) else None
        self.validation = ClientValidation(world, grants, self.ref, self.spec.tls if self.spec else None)
        self.judge = Judge(self.ref, certificates, self.validation, last)
        self._secure: set[int] = set()  # ports of HTTPS listeners

    def build(self, infrastructures: Infrastructures, sets: Iterable[Resource]) -> None:
        """Put the Gateway and its ListenerSets into what was found."""
        own = self._own()
        members = [listener_sets.Member(self.world, self.last, self.judge, self.spec, each) for each in sets]
        claims = Claims()
        for drafts in (own, *(m.drafts for m in members)):
            asked = {d.path: claim for d in drafts if (claim := d.claim) is not None}
            refused = claims.admit(list(asked.values()))
            for draft in drafts:
                draft.conflict = refused.get(draft.path)
        every = [*own, *(d for m in members for d in m.drafts)]
        self._secure = {d.spec.port for d in every if d.spec is not None and d.spec.protocol == "HTTPS"}
        self._overlaps(every)
        for draft in every:
            self.found.problems.extend(draft.problems())
        self.found.by_gateway[self.ref] = _opened(own)
        infra = self._infrastructure(infrastructures)
        for member in members:
            self.found.add_set(member.status(parent_ok=infra.problem is None), _opened(member.drafts))
            self.found.problems.extend(member.problems)
        attached = sum(1 for status in self.found.sets[-len(members) :] if status.accepted.ok) if members else 0
        self._finish(own, infra, _ports(every), attached)

    def _own(self) -> list[Draft]:
        if self.spec is None:
            return [self.judge.kept(self.ref, listener) for listener in self.last.listeners_of(self.ref)]
        drafts = [self.judge.draft(self.ref, index, item) for index, item in enumerate(self.spec.listeners)]
        listener_sets.refuse_repeats(drafts)
        return drafts

    def _overlaps(self, drafts: list[Draft]) -> None:
        secure = (
            (d.id, d.listener.port, d.listener.hostname)
            for d in drafts
            if d.serves and d.listener is not None and d.listener.tls is not None
        )
        shared = overlaps(secure)
        for draft in drafts:
            draft.overlap = shared.get(draft.id)

    def _infrastructure(self, infrastructures: Infrastructures) -> Found:
        if self.spec is None:
            return Found(Infrastructure(usable=False))
        infra = infrastructures.of_gateway(self.resource, self.spec)
        if infra.problem is not None:
            self.found.problems.append(infra.problem)
        return infra

    def _finish(
        self, own: list[Draft], infra: Found, ports: tuple[tuple[int, Literal["TCP", "UDP"]], ...], attached_sets: int
    ) -> None:
        ignored, refused = unread.tolerate(self.resource)
        ignored += self.validation.unused(self._secure)
        self.found.problems.extend((*ignored, *refused))
        infrastructure = replace(infra.infrastructure, ports=ports)
        listeners = tuple(draft.status() for draft in own)
        if self.spec is None:
            first = self.resource.problems[0] if self.resource.problems else None
            message = f"{first.path}: {first.what} {first.fix}" if first else "The Gateway is broken."
            self._keep_part()
            if not own:
                self.found.refusals[self.ref] = message
            status = GatewayStatus(
                self.ref,
                self.resource.generation,
                Verdict(False, "Invalid", message),
                listeners,
                quarantined=any(draft.serves for draft in own),
                infrastructure=infrastructure,
                attached_listener_sets=attached_sets,
            )
            self.found.statuses.append(status)
            return
        resolved = self._client_certificate(self.spec)
        if resolved.ok and not all(listener.resolved.ok for listener in listeners):
            bad = ", ".join(x.name for x in listeners if not x.resolved.ok)
            resolved = Verdict(False, "ListenersNotResolved", f"Listeners refer to what cannot be used: {bad}.")
        self.found.statuses.append(
            GatewayStatus(
                self.ref,
                self.resource.generation,
                self._accepted(own, infra.problem),
                listeners,
                resolved=resolved,
                infrastructure=infrastructure,
                attached_listener_sets=attached_sets,
                remarks=tuple(self._remarks(ignored)),
            )
        )

    def _accepted(self, own: list[Draft], problem: Problem | None) -> Verdict:
        if problem is not None:
            return Verdict(False, problem.reason, f"{problem.path}: {problem.what} {problem.fix}")
        bad = [d for d in own if not d.serves or d.unresolved]
        if not bad:
            return ACCEPTED
        names = ", ".join(d.name for d in bad)
        what = f"Something is wrong with {len(bad)} of {len(own)} listeners: {names}. Their own conditions say what."
        return Verdict(any(d.serves for d in own), "ListenersNotValid", what)

    def _client_certificate(self, spec: gateway_api.GatewaySpec) -> Verdict:
        """Return whether the certificate for backends is there, and put it into the Snapshot."""
        backend = spec.tls.backend if spec.tls is not None else None
        if backend is None or backend.client_certificate_ref is None:
            return RESOLVED
        path = ".spec.tls.backend.clientCertificateRef"
        shown = self.certificates.find(self.ref, backend.client_certificate_ref, path, "InvalidClientCertificateRef")
        if shown.id:
            self.found.parts.append(GatewayPart(f"{self.ref.namespace}/{self.ref.name}", str(self.ref), shown.id))
        if shown.problem is None:
            return RESOLVED
        self.found.problems.append(shown.problem)
        return Verdict(False, shown.problem.reason, f"{shown.problem.what} {shown.problem.fix}")

    def _keep_part(self) -> None:
        part = self.last.parts.get(f"{self.ref.namespace}/{self.ref.name}")
        if part is not None and (
            not part.client_certificate or self.certificates.keep(self.ref, part.client_certificate)
        ):
            self.found.parts.append(part)

    def _remarks(self, ignored: list[Problem]) -> Iterator[Remark]:
        places = self.validation.insecure_places()
        if places:
            what = f"Clients without a valid certificate are let in {' and '.join(places)}: the mode is AllowInsecureFallback."
            yield Remark("InsecureFrontendValidationMode", "ConfigurationChanged", what)
        yield from unread.remark_of(ignored)


def _opened(drafts: Iterable[Draft]) -> tuple[OpenListener, ...]:
    return tuple(opened for draft in drafts if (opened := draft.open()) is not None)


def _ports(drafts: Iterable[Draft]) -> tuple[tuple[int, Literal["TCP", "UDP"]], ...]:
    found: set[tuple[int, Literal["TCP", "UDP"]]] = set()
    for draft in drafts:
        if draft.serves and draft.listener is not None:
            found.add((draft.listener.port, "UDP" if draft.listener.protocol == "UDP" else "TCP"))
    return tuple(sorted(found))
