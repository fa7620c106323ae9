"""The churn: each step changes something while requests run, and says what it did with which replicas.

A step leaves the world as it likes; `prepare` brings it back before the next one.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from churn import routes
from churn.world import Gateway, Load, Replica, World, until


@dataclass(frozen=True)
class Pace:
    """How long and how much. calm_s: load without churn, half before and half after. repeats: of a step's change. pause_s: after each.

    rate, clients, think_s: of the loops.
    """

    calm_s: float = 2.0
    repeats: int = 1
    pause_s: float = 0.25
    rate: float = 100.0
    clients: int = 5
    think_s: float = 0.045


@dataclass
class Run:
    """A step in progress.

    notes: what it found, for people. killed: whose requests in flight may be lost. problems: what was not as it must be.
    rotated: when which certificate was put in place, by digest.
    """

    world: World
    gateway: Gateway
    load: Load
    pace: Pace
    notes: list[str] = field(default_factory=list)
    killed: list[Replica] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rotated: list[tuple[float, str]] = field(default_factory=list)

    async def pause(self, times: float = 1.0) -> None:
        await asyncio.sleep(self.pace.pause_s * times)

    def orders(self) -> list[Replica]:
        return [each for each in self.world.replicas if each.service == "orders"]


@dataclass(frozen=True)
class Step:
    """One row of the table. workers: of the gateway. tls: whether clients come over it. replicas: of `orders`, to begin with."""

    name: str
    title: str
    run: Callable[[Run], Awaitable[None]]
    workers: int = 1
    tls: bool = False
    replicas: int = 3


async def edit_routes(run: Run) -> None:
    changes = 0
    for seed in range(1, 12 * run.pace.repeats):
        await run.world.publish(routes.snapshot(seed=seed))
        changes += 1
        await run.pause()
    await run.world.live()
    run.notes.append(f"{changes} generations of {routes.OTHERS} routes")


async def shift_weights(run: Run) -> None:
    """A canary from nothing to all, the former version's end, and back."""
    world = run.world
    both = ("orders", "orders-next")
    await world.publish(routes.snapshot(services=both))
    await world.start_replicas(2, "orders-next")
    await world.seen("orders-next")
    for _ in range(run.pace.repeats):
        for share in (5, 25, 50, 75, 100):
            await world.publish(routes.snapshot(routes.loaded(orders=100 - share, orders_next=share), services=both))
            await run.pause()
        # The former one leaves the configuration while its last requests run.
        await world.publish(routes.snapshot(routes.loaded(orders_next=1), services=("orders-next",)))
        await world.live()
        await run.pause()
        await world.publish(routes.snapshot(routes.loaded(orders=50, orders_next=50), services=both))
        await world.live()
        await run.pause()
    await world.publish(routes.snapshot())
    await world.live()
    await asyncio.gather(*(world.stop_replica(each) for each in world.replicas[:] if each.service == "orders-next"))


async def rotate_certificates(run: Run) -> None:
    for _ in range(2 * run.pace.repeats):
        run.rotated.append((time.monotonic(), run.world.rotate()))
        await asyncio.sleep(2.5)
    run.notes.append(f"{len(run.rotated)} rotations")


async def scale(run: Run) -> None:
    world = run.world
    for _ in range(run.pace.repeats):
        await world.start_replicas(4)
        await world.seen()
        await run.pause(2)
        *going, _ = run.orders()
        await asyncio.gather(*(world.stop_replica(each) for each in going))
        await world.seen()
        await run.pause()


async def roll_replicas(run: Run) -> None:
    world = run.world
    for _ in range(run.pace.repeats):
        for old in run.orders():
            await world.start_replicas(1)
            await world.stop_replica(old)
    await world.seen()


async def kill_one_in_three(run: Run) -> None:
    world = run.world
    for _ in range(run.pace.repeats):
        victim = run.orders()[0]
        run.killed.append(victim)
        await world.kill_replica(victim)
        await run.pause(4)
        await world.start_replicas(1)
        await run.pause(2)


async def maintenance(run: Run) -> None:
    world = run.world
    late = 0
    for _ in range(run.pace.repeats):
        for replica in run.orders():
            await world.maintain(replica, True)
            await world.seen(but=[replica])
            await asyncio.sleep(0.1)  # what was on its way
            before = replica.executed()
            await run.pause(2)
            late += replica.executed() - before
            await world.maintain(replica, False)
            await world.seen()
    run.notes.append(f"{late} requests to a drained replica")
    if late:
        run.problems.append(f"{late} requests were sent to replicas in maintenance")


async def restart_consul(run: Run) -> None:
    world = run.world
    for _ in range(run.pace.repeats):
        await world.consul.kill()
        await asyncio.sleep(2.0)
        await world.consul.start()
        await world.publish(routes.snapshot(seed=int(time.monotonic())))
        await world.live()
        for _ in range(10):
            await _expect_no_ghosts(run)
            await asyncio.sleep(0.1)
        await world.seen()


async def _expect_no_ghosts(run: Run) -> None:
    """A Consul that restarts reads its log again and shows the past on the way: replicas that are long gone."""
    for gateway in run.world.gateways.values():
        ghosts = await gateway.endpoints("shop/orders") - {each.authority for each in run.orders()}
        if ghosts:
            run.problems.append(f"{gateway.name} sends requests to replicas that are gone: {', '.join(sorted(ghosts))}")


async def wipe_consul(run: Run) -> None:
    """Consul comes back without its data: replicas register themselves again, and the operator publishes anew."""
    world = run.world
    for _ in range(run.pace.repeats):
        await world.consul.kill()
        world.consul.wipe()
        await world.consul.start()
        await world.publish(routes.snapshot(seed=int(time.monotonic())), anew=True)
        await world.live()
        await run.pause(4)


async def stop_unseen(run: Run) -> None:
    """A replica stops in good order while Consul is away: nobody hears of it."""
    world = run.world
    for _ in range(run.pace.repeats):
        leaving = run.orders()[0]
        await world.consul.kill()
        await world.stop_replica(leaving)
        await run.pause(2)
        await world.consul.start()
        await world.start_replicas(1)
        await world.consul.deregister(leaving.id)
        await world.seen()


async def roll_workers(run: Run) -> None:
    for _ in range(run.pace.repeats):
        before = {row["pid"] for row in await run.gateway.workers()}
        run.gateway.process.send_signal(signal.SIGHUP)

        async def replaced(before: set[int] = before) -> bool:
            rows = await run.gateway.workers()
            ready = all(row["ready"] for row in rows)
            return bool(rows) and ready and not before & {row["pid"] for row in rows}

        await until(replaced, "every worker was replaced")
    await run.pause(4)


async def roll_gateway(run: Run) -> None:
    """A new gateway beside the old one, as an orchestrator rolls them.

    The balancer in front sends new connections to both once the new one is ready, and none to the old one when that says it
    is not ready any more; the old one's clients are told to leave.
    """
    world = run.world
    for _ in range(run.pace.repeats):
        old = run.gateway
        new = await world.start_gateway("workers-1")
        await run.load.aim(old.port, new.port)
        await run.pause(2)
        old.process.send_signal(signal.SIGTERM)

        async def told(old: Gateway = old) -> bool:
            return not await old.ready()

        await until(told, "the old gateway says that it drains")
        await run.load.aim(new.port)
        # Ended before anything else asks it: `ready` takes an end for a crash.
        world.gateways["workers-1"] = run.gateway = new
        await world.retire_gateway(old)
        await run.pause()


STEPS = (
    Step("edit-routes", "other routes edited, split, reordered, deleted", edit_routes),
    Step("edit-routes-workers", "the same, two workers", edit_routes, workers=2),
    Step("shift-weights", "weights shifted to another service and back", shift_weights),
    Step("rotate-certificates", "TLS certificates rotated", rotate_certificates, tls=True),
    Step("scale", "scale 1 → 5 → 1", scale, replicas=1),
    Step("roll-replicas", "all replicas rolled", roll_replicas),
    Step("roll-replicas-workers", "all replicas rolled, two workers", roll_replicas, workers=2),
    Step("kill", "kill −9 of one replica in three", kill_one_in_three),
    Step("kill-workers", "kill −9 of one replica in three, two workers", kill_one_in_three, workers=2),
    Step("maintenance", "each replica drained by maintenance mode", maintenance),
    Step("restart-consul", "Consul away for seconds, restarted", restart_consul),
    Step("stop-unseen", "a replica stops while Consul is away", stop_unseen),
    Step("roll-workers", "gateway rolled: SIGHUP, two workers", roll_workers, workers=2),
    # The last one of its gateway: endpoints that leave are believed gone only 30 s after a registry lost its data.
    Step("wipe-consul", "Consul restarted without its data", wipe_consul),
    Step("roll-gateway", "gateway rolled: a new process beside the old", roll_gateway),
)


async def prepare(world: World, step: Step) -> Gateway:
    """Bring the world to where the step begins, and return its gateway."""
    gateway = await world.gateway(step.workers)
    await world.publish(routes.snapshot())
    await world.live()
    await world.have(step.replicas)
    world.choose(gateway)
    return gateway
