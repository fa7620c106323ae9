"""ListenerSets: which of them may add to a Gateway, and what becomes of their listeners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pydantic

from nexus_core.model import gateway_api
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import gateway_of
from nexus_core.translate import unread
from nexus_core.translate.listener_rules import Judge
from nexus_core.translate.listeners import ACCEPTED, Draft, selects
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.translation import ListenerSetStatus, Verdict
from nexus_core.translate.worlds import World, precedence


def by_gateway(
    world: World, last: LastGood, ours: frozenset[ObjectRef], problems: list[Problem]
) -> Mapping[ObjectRef, Sequence[Resource]]:
    """Return the ListenerSets that name each Gateway of ours, by precedence. Into `problems` goes what names none that exists."""
    found: dict[ObjectRef, list[Resource]] = {}
    for resource in sorted(world.all("ListenerSet"), key=precedence):
        gateway = _parent(resource, last)
        if gateway is None:
            problems.extend(resource.problems)
        elif gateway in ours:
            found.setdefault(gateway, []).append(resource)
        elif world.find("Gateway", gateway.namespace, gateway.name) is None:
            what = f'There is no Gateway "{gateway.name}" in namespace "{gateway.namespace}".'
            known = ", ".join(f"{g.namespace}/{g.name}" for g in sorted(ours)[:10])
            fix = f"Create it, or name one of: {known}." if known else "Create it."
            problems.append(Problem(resource.ref, ".spec.parentRef.name", "NoMatchingParent", what, fix))
    return found


def _parent(resource: Resource, last: LastGood) -> ObjectRef | None:
    """The Gateway that a ListenerSet names; for one that cannot be read, the one it names still or named last."""
    namespace = resource.ref.namespace
    if isinstance(resource.spec, gateway_api.ListenerSetSpec):
        return _gateway(resource.spec.parent_ref, namespace)
    raw = resource.raw.get("spec")
    given = raw.get("parentRef") if isinstance(raw, dict) else None
    try:
        return _gateway(gateway_api.ParentGatewayRef.model_validate(given), namespace)
    except pydantic.ValidationError:
        for listener in last.listeners_of(resource.ref):
            of_namespace, _, name = gateway_of(listener.id).partition("/")
            return ObjectRef("Gateway", of_namespace, name)
        return None


def _gateway(parent: gateway_api.ParentGatewayRef, namespace: str) -> ObjectRef | None:
    if (parent.group, parent.kind) != (gateway_api.GROUP, "Gateway"):
        return None
    return ObjectRef("Gateway", parent.namespace or namespace, parent.name)


class Member:
    """A ListenerSet of one Gateway. drafts: its listeners; none when it may not add any. problems: what is wrong with the set itself."""

    def __init__(
        self, world: World, last: LastGood, judge: Judge, gateway: gateway_api.GatewaySpec | None, resource: Resource
    ) -> None:
        self.ref, self._resource, self._gateway = resource.ref, resource, judge.gateway
        self.drafts: list[Draft] = []
        self.problems: list[Problem] = []
        self._refusal: Verdict | None = None
        self._is_broken = not isinstance(resource.spec, gateway_api.ListenerSetSpec)
        ignored, refused = unread.tolerate(resource)
        self.problems.extend((*ignored, *refused))
        self._remarks = unread.remark_of(ignored)
        before = [x for x in last.listeners_of(self.ref) if gateway_of(x.id) == _name(judge.gateway)]
        if not self._may_add(world, gateway, bool(before)):
            return
        if isinstance(resource.spec, gateway_api.ListenerSetSpec):
            self.drafts = [judge.draft(self.ref, index, item) for index, item in enumerate(resource.spec.listeners)]
            refuse_repeats(self.drafts)
        else:
            self.drafts = [judge.kept(self.ref, listener) for listener in before]

    def _may_add(self, world: World, gateway: gateway_api.GatewaySpec | None, had_listeners: bool) -> bool:
        own = self._gateway.namespace
        if gateway is None:
            # Whom a Gateway that cannot be read allows, nobody knows: those it had stay.
            if not had_listeners:
                what = f"{self._gateway} is broken, and had no listeners of this ListenerSet before."
                self._refusal = Verdict(False, "ParentNotAccepted", what)
            return had_listeners
        allowed = gateway.allowed_listeners.namespaces
        if selects(world, allowed, own, self.ref.namespace):
            return True
        what = f'{self._gateway} takes no ListenerSets from namespace "{self.ref.namespace}".'
        fix = "Set allowedListeners.namespaces.from on the Gateway: Same, All or a Selector."
        self.problems.append(Problem(self.ref, ".spec.parentRef", "NotAllowed", what, fix))
        self._refusal = Verdict(False, "NotAllowed", f"{what} {fix}")
        return False

    def status(self, *, parent_ok: bool) -> ListenerSetStatus:
        """Return its status, without attached routes yet. parent_ok: whether the Gateway's data plane can be made as it asks."""
        serves = any(draft.serves for draft in self.drafts)
        return ListenerSetStatus(
            self.ref,
            self._resource.generation,
            self._gateway,
            self._accepted(parent_ok),
            tuple(draft.status() for draft in self.drafts),
            quarantined=self._is_broken and serves,
            remarks=self._remarks,
        )

    def _accepted(self, parent_ok: bool) -> Verdict:
        if self._refusal is not None:
            return self._refusal
        if self._is_broken:
            first = self._resource.problems[0] if self._resource.problems else None
            message = f"{first.path}: {first.what} {first.fix}" if first else "The ListenerSet is broken."
            return Verdict(False, "Invalid", message)
        if not parent_ok:
            return Verdict(False, "ParentNotAccepted", f"{self._gateway} is not accepted; its own conditions say why.")
        bad = [d for d in self.drafts if not d.serves or d.unresolved]
        if not bad:
            return ACCEPTED
        names = ", ".join(d.name for d in bad)
        what = f"Something is wrong with {len(bad)} of {len(self.drafts)} listeners: {names}. Their own conditions say what."
        return Verdict(any(d.serves for d in self.drafts), "ListenersNotValid", what)


def refuse_repeats(drafts: Sequence[Draft]) -> None:
    """Refuse all but the first of listeners with one name: nothing could tell them apart (the API server lets none in). Routes that
    name it mean the first.
    """
    seen: set[str] = set()
    for draft in drafts:
        if draft.name in seen:
            draft.listener = None
        if draft.name in seen and draft.refusal is None:
            what = f'There is a listener "{draft.name}" already.'
            draft.refusal = Problem(draft.owner, f"{draft.path}.name", "InvalidSpec", what, "Give it another name.")
        seen.add(draft.name)


def _name(gateway: ObjectRef) -> str:
    return f"{gateway.namespace}/{gateway.name}"
