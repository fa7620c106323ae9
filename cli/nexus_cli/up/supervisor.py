"""Keeps the processes of a plan running, and moves from one plan to the next without leaving a service empty."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from nexus_core.discovery import Endpoint

from nexus_cli.up import plans
from nexus_cli.up.plans import ServicePlan
from nexus_cli.up.registries import Registry
from nexus_cli.up.replicas import House, Replica


@dataclass(slots=True)
class Group:
    """The replicas of one service. stale: of its former plan, serving until the new ones are ready."""

    plan: ServicePlan
    replicas: list[Replica] = field(default_factory=list)
    stale: list[Replica] = field(default_factory=list)
    handover: asyncio.Task[None] | None = None
    started: int = 0


class Supervisor:
    """Owns all replicas. `apply` is called with each new plan; `stop` or `kill` ends everything."""

    def __init__(self, house: House, registry: Registry) -> None:
        self._house = house
        self._registry = registry
        self._groups: dict[str, Group] = {}
        self.changed = asyncio.Event()
        """Set after each change of any replica's state; whoever waits clears it."""

    @property
    def groups(self) -> Mapping[str, Group]:
        return self._groups

    @property
    def replicas(self) -> list[Replica]:
        return [replica for group in self._groups.values() for replica in group.replicas]

    @property
    def is_ready(self) -> bool:
        return all(replica.state == "ready" for replica in self.replicas)

    @property
    def is_settled(self) -> bool:
        """Whether waiting longer would hardly change the picture: each replica is ready or in a crash loop."""
        return all(replica.state in ("ready", "crash loop") or replica.looping for replica in self.replicas)

    def current(self) -> dict[str, ServicePlan]:
        return {key: group.plan for key, group in self._groups.items()}

    async def apply(self, wanted: Mapping[str, ServicePlan]) -> dict[str, plans.Action]:
        """Start, stop, scale and replace until what runs is what is wanted. Returns what was done to which service."""
        actions = plans.changes(self.current(), wanted)
        for key, action in actions.items():
            if action == "stop":
                await self._remove(key)
            elif action == "start":
                self._groups[key] = Group(wanted[key])
                self._fill(key)
                await self._publish(key)
            else:
                await self._change(key, wanted[key], restart=action == "restart")
        return actions

    def _fill(self, key: str) -> None:
        """Start replicas until there are as many as the plan wants."""
        group = self._groups[key]
        wanted = group.plan.replicas if group.plan.command else 0
        while len(group.replicas) < wanted:
            group.started += 1
            name = group.plan.name if wanted == 1 and group.started == 1 else f"{group.plan.name}-{group.started}"
            replica = Replica(group.plan, name, self._house, lambda: self._publish(key))
            group.replicas.append(replica)
            replica.start()

    async def _change(self, key: str, plan: ServicePlan, *, restart: bool) -> None:
        group = self._groups[key]
        group.plan = plan
        if restart:
            await self._replace(key, group)
        wanted = plan.replicas if plan.command else 0
        surplus, group.replicas = group.replicas[wanted:], group.replicas[:wanted]
        for replica in group.replicas:
            replica.plan = plan
        self._fill(key)
        await self._publish(key)
        await _stop_all(surplus)

    async def _replace(self, key: str, group: Group) -> None:
        """Retire the replicas. With a fixed port the new cannot start beside the old; else the old wait for the new."""
        if group.handover is not None:
            group.handover.cancel()
        served = [replica for replica in group.replicas if replica.state == "ready"]
        await _stop_all([replica for replica in group.replicas if replica not in served])
        group.stale.extend(served)
        group.replicas = []
        if group.plan.port or not group.plan.command:
            await self._retire(key, group)
        else:
            group.handover = asyncio.create_task(self._hand_over(key, group), name=f"handover of {key}")

    async def _hand_over(self, key: str, group: Group) -> None:
        while not all(replica.was_ready.is_set() for replica in group.replicas):
            await asyncio.gather(*(replica.was_ready.wait() for replica in group.replicas))
        await self._retire(key, group)

    async def _retire(self, key: str, group: Group) -> None:
        stale, group.stale = group.stale, []
        await self._publish(key)
        await _stop_all(stale)

    async def _remove(self, key: str) -> None:
        group = self._groups.pop(key)
        if group.handover is not None:
            group.handover.cancel()
        await self._registry.remove(group.plan.registered)
        await _stop_all([*group.replicas, *group.stale])

    async def _publish(self, key: str) -> None:
        """Tell discovery who takes requests."""
        group = self._groups.get(key)
        if group is not None:
            live = [r.endpoint for r in (*group.replicas, *group.stale) if r.endpoint is not None]
            fixed = [Endpoint(host, port) for host, port in group.plan.addresses]
            await self._registry.set(group.plan.registered, tuple(sorted([*live, *fixed])), group.plan.meta)
        self.changed.set()

    async def stop(self) -> None:
        """SIGTERM to all, in no order: each drains by itself."""
        groups = list(self._groups.values())
        for group in groups:
            if group.handover is not None:
                group.handover.cancel()
        await _stop_all([replica for group in groups for replica in (*group.replicas, *group.stale)])

    def kill(self) -> None:
        """SIGKILL to all, at once."""
        for group in self._groups.values():
            for replica in (*group.replicas, *group.stale):
                replica.kill()


async def _stop_all(replicas: list[Replica]) -> None:
    await asyncio.gather(*(replica.stop() for replica in replicas))
