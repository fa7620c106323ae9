"""Applies and deletes the children of NexusServices and Gateways, and never touches what is not theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from nexus_core.problems import ObjectRef, Problem

from nexus_operator.children.autoscalers import Scaling, left_open, scalings
from nexus_operator.children.immutable import applicable
from nexus_operator.children.plan import (
    OWNERS,
    ChildKey,
    Settled,
    build_plan,
    child_key,
    edition,
    is_unowned,
    owner_of,
    owner_uid,
    settle_names,
)
from nexus_operator.edge.kube import Conflict, KubeApi, KubeAway, KubeError, NotFound
from nexus_operator.metrics import Metrics
from nexus_operator.world.inventory import Inventory, Object
from nexus_operator.world.kinds import AUTOSCALER, BY_NAME, CHILDREN, FIELD_MANAGER, MANAGED_BY

log = logging.getLogger(__name__)
RETRY_S = 3.0
"""Pause before a refused child is tried again: what stood in its way may be gone, and is not always watched."""
LOOKS = 5
"""At a Deployment that changes between a look and the apply, before that is left to the next round."""
PARALLEL = 8
"""Owners whose children are written at once; those of one owner are written in their order."""
_PLACES: Mapping[str, tuple[str, str]] = {
    "NexusService": (".spec.workload", ".spec.workload"),
    "Gateway": (".spec.infrastructure", ".spec.infrastructure and the NexusGatewayParameters"),
    "NexusGatewayParameters": (".spec", ".spec"),
}
"""Where an owner says what its children are like: the path of a problem, and words for a remedy."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays as it is though nobody renders it now.

    owners: uids of objects whose children all stay, since their present spec cannot be used. children: single ones.
    """

    owners: frozenset[str] = frozenset()
    children: frozenset[ChildKey] = frozenset()


@dataclass(frozen=True, slots=True)
class _Refused:
    wanted: Object
    problem: Problem
    retry_at: float


class ChildWriter:
    """Makes the cluster hold the rendered children."""

    def __init__(self, kube: KubeApi, inventory: Inventory, metrics: Metrics) -> None:
        self._kube = kube
        self._inventory = inventory
        self._metrics = metrics
        self._settled: dict[ChildKey, Settled] = {}
        self._refused: dict[ChildKey, _Refused] = {}
        self._scaled: Mapping[ChildKey, Scaling] = {}

    async def sync(self, wanted: Iterable[Object], kept: Kept) -> tuple[Problem, ...]:
        """Apply and delete what is needed; return a problem for each child that cannot be.

        Raises KubeAway when some have to be tried again soon. What the API server says of one child keeps no other from
        being written; only when it does not answer at all, the rest is left to the next round.
        """
        live = [obj for kind in CHILDREN for obj in self._inventory.all(kind.kind) if _ours(obj)]
        wanted, disputed = settle_names(wanted, live)
        self._scaled = scalings(wanted, self._inventory.all(AUTOSCALER.kind))
        wanted = tuple(left_open(obj, self._scaled) for obj in wanted)
        plan = build_plan(wanted, live, self._settled)
        owners = {str(o["metadata"].get("uid")) for kind in OWNERS for o in self._inventory.all(kind)}
        late: list[KubeAway] = []
        for obj in plan.delete:
            if child_key(obj) in kept.children or not (is_unowned(obj) or owner_uid(obj) in owners - kept.owners):
                continue
            try:
                await self._delete(obj)
            except KubeAway as err:
                _only_this(err)
                late.append(err)
        keys = {child_key(obj) for obj in wanted}
        self._refused = {key: known for key, known in self._refused.items() if key in keys}
        await self._apply_all(plan.apply, owners, late)
        if late:
            raise KubeAway(f"{len(late)} children are written later: {late[0]}", late[0].status)
        return (*(_conflict(obj) for obj in disputed), *(self._refused[key].problem for key in sorted(self._refused)))

    async def _apply_all(self, objects: Iterable[Object], owners: set[str], late: list[KubeAway]) -> None:
        families: dict[tuple[str, str], list[Object]] = {}
        for obj in objects:
            families.setdefault((owner_uid(obj), str(obj["metadata"].get("namespace"))), []).append(obj)
        pending = list(families.values())[::-1]
        away: list[KubeAway] = []

        async def worker() -> None:
            while pending and not away:
                for obj in pending.pop():
                    try:
                        await self._apply_one(obj, owners)
                    except KubeAway as err:
                        if not err.status:  # no answer to one request: no point in asking for more now
                            away.append(err)
                            return
                        late.append(err)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL, len(pending))):
                group.create_task(worker())
        if away:
            raise away[0]

    async def _apply_one(self, obj: Object, owners: set[str]) -> None:
        key = child_key(obj)
        known = self._refused.get(key)
        if known is not None and known.wanted == obj and time.monotonic() < known.retry_at:
            return
        problem = await self._apply_soon(key, obj, owners)
        if problem is None:
            self._refused.pop(key, None)
        else:
            if known is None or known.problem != problem:
                log.warning("%s %s/%s: %s %s", *key, problem.what, problem.fix)
            self._refused[key] = _Refused(obj, problem, time.monotonic() + RETRY_S)

    async def _apply_soon(self, key: ChildKey, obj: Object, owners: set[str]) -> Problem | None:
        """Apply, and look again at once when a Deployment has changed since the look: while it is scaled, it does all the time."""
        for _ in range(LOOKS if key in self._scaled else 0):
            try:
                return await self._apply(key, obj, owners)
            except KubeAway as err:
                if err.status != HTTPStatus.CONFLICT:
                    raise
        return await self._apply(key, obj, owners)

    async def _apply(self, key: ChildKey, obj: Object, owners: set[str]) -> Problem | None:
        kind, (_, namespace, name) = BY_NAME[key[0]], key
        owner = owner_of(obj) or ObjectRef("Gateway", namespace, name)
        try:
            try:
                live = await self._kube.get(kind, namespace, name)
            except NotFound:
                live = None
            if live is not None and owner_uid(live) and owner_uid(live) not in owners:
                # Left by an owner of this name that was deleted. The garbage collector would come too, but in its own time:
                # half a minute when the CRD is new to it.
                await self._kube.delete(kind, namespace, name, uid=live["metadata"]["uid"])
                what = f"{kind.kind} {namespace}/{name} of a deleted {owner.kind} is being removed first."
                raise KubeAway(what, HTTPStatus.CONFLICT)
            if live is not None and not is_unowned(live) and owner_uid(live) != (owner_uid(obj) or None):
                return _conflict(obj)
            can = applicable(obj, live, FIELD_MANAGER)
            body = self._body(key, can.body, live)
            # Only what is known to be ours is taken over by force; something created since the look just now is not.
            applied = await self._kube.apply(kind, namespace, name, body, force=live is not None)
        except Conflict as err:
            raise KubeAway(str(err), err.status) from err  # somebody was faster: look again
        except NotFound as err:
            return _refusal(owner, str(err), f"Create the namespace, or delete the {owner.kind}.")
        except KubeAway as err:
            if err.status != HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            # What it gives for a body that it cannot merge (a list with one key twice). Trying again changes nothing.
            words = _PLACES[owner.kind][1]
            return _refusal(owner, str(err), f"Correct {words}; if nothing is wrong there, look at the API server.")
        except KubeError as err:
            return _refusal(owner, str(err), f"Correct {_PLACES[owner.kind][1]}, or allow it in the namespace.")
        self._metrics.child_writes_total += 1
        self._settled[key] = Settled(obj, edition(applied))
        self._inventory.observe(kind.kind, applied)
        log.info("applied %s %s/%s", kind.kind, namespace, name)
        return Problem(owner, _PLACES[owner.kind][0], "ChildRefused", can.what, can.fix) if can.what else None

    def _body(self, key: ChildKey, obj: Object, live: Object | None) -> Object:
        """Return what to apply over the live object, if there is one: to that very object, and with the replicas that it has now where
        these are an autoscaler's.
        """
        scaling = self._scaled.get(key)
        if scaling is not None:
            obj = {**obj, "spec": {**obj["spec"], "replicas": scaling.replicas_for(live, FIELD_MANAGER)}}
        if live is None:
            return obj
        # Scaled since that look, it is at another version: nothing is applied then, and we look again.
        known = ("uid", "resourceVersion") if scaling is not None else ("uid",)
        return {**obj, "metadata": {**obj["metadata"], **{name: live["metadata"][name] for name in known}}}

    async def _delete(self, obj: Object) -> None:
        kind, namespace, name = child_key(obj)
        try:
            await self._kube.delete(BY_NAME[kind], namespace, name, uid=obj["metadata"]["uid"])
        except KubeAway:
            raise
        except KubeError as err:
            log.error("%s %s/%s is not wanted any more and cannot be deleted: %s", kind, namespace, name, err)
            return
        self._metrics.child_writes_total += 1
        self._settled.pop((kind, namespace, name), None)
        log.info("deleted %s %s/%s", kind, namespace, name)


def _only_this(err: KubeAway) -> None:
    """Raise the error if it is no answer to one request: then there is no point in asking for more now."""
    if not err.status:
        raise err


def _conflict(obj: Object) -> Problem:
    kind, namespace, name = child_key(obj)
    owner = owner_of(obj) or ObjectRef("Gateway", namespace, name)
    return Problem(
        owner, ".metadata.name", "ChildConflict",
        f"There is a {kind} {namespace}/{name} that this {owner.kind} did not make.",
        f"Rename the {owner.kind}, or delete the {kind}; it is never overwritten.",
    )  # fmt: skip


def _refusal(owner: ObjectRef, what: str, fix: str) -> Problem:
    return Problem(owner, _PLACES[owner.kind][0], "ChildRefused", f"The API server refused it: {what}", fix)


def _ours(obj: Object) -> bool:
    return (obj["metadata"].get("labels") or {}).get(MANAGED_BY[0]) == MANAGED_BY[1]
