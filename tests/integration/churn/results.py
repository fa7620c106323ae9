"""One step measured: what was sent, what became of it, and why."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from churn.steps import Pace, Run, Step, prepare
from churn.world import World

WARM_S = 0.7
AFTER_S = 0.7
"""What comes so shortly after the churn still belongs to it."""
SETTLE_S = 0.4
"""Until the gateways have written their access logs."""
IN_FLIGHT_S = 0.05
"""A request sent so shortly after a kill was on its way when the gateway learned of it."""


@dataclass
class Result:
    """Times in milliseconds, of the open loop, from when a request was due, without the slow ones. ratio: of the p99s.

    Calm is before the churn and after it, half and half: the same processes, the same machine, whose own pace changes by the minute.

    late_p99_ms: by how much the load generator sent later than due during the churn. Nothing it waits for is the gateway's, so
    this is the machine's noise: a step in which it is much above a millisecond says little about times.
    lost: requests without a good answer, but for those in `in_flight`: POSTs that a killed process had in hand.
    duplicated: POSTs that were executed more than once. retried: requests that the gateway sent more than once.
    """

    name: str
    title: str
    requests: int = 0
    lost: int = 0
    in_flight: int = 0
    duplicated: int = 0
    retried: int = 0
    connections: int = 0
    calm_p50_ms: float | None = None
    calm_p99_ms: float | None = None
    churn_p50_ms: float | None = None
    churn_p99_ms: float | None = None
    churn_max_ms: float | None = None
    closed_calm_p99_ms: float | None = None
    closed_churn_p99_ms: float | None = None
    late_p99_ms: float | None = None
    ratio: float | None = None
    churn_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def quantile_ms(seconds: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of them do not exceed, in milliseconds."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(ordered[max(0, math.ceil(len(ordered) * share) - 1)] * 1000, 2)


async def measure(world: World, step: Step, pace: Pace) -> Result:
    """Run a step under load and return what it cost."""
    gateway = await prepare(world, step)
    port = gateway.tls_port if step.tls else gateway.port
    # Over TLS every other request shakes hands: that is what is tried there.
    load = await world.load(
        port,
        tls=step.tls,
        rate=pace.rate,
        clients=pace.clients,
        think_s=pace.think_s,
        fresh_every=2 if step.tls else 10,
    )
    run = Run(world, gateway, load, pace)
    try:
        await asyncio.sleep(WARM_S)
        calm_from = time.monotonic()
        await asyncio.sleep(pace.calm_s / 2)
        churn_from = time.monotonic()
        await step.run(run)
        churn_to = time.monotonic()
        await asyncio.sleep(AFTER_S + pace.calm_s / 2)
        report = await load.stop()
    except BaseException:
        if load.process.returncode is None:
            load.process.kill()
            await load.process.wait()
        raise
    await asyncio.sleep(SETTLE_S)
    found = Result(step.name, step.title, notes=run.notes, problems=run.problems)
    found.churn_s = round(churn_to - churn_from, 1)
    found.connections = report["connections"]
    _judge(found, run, report["records"])
    _certificates(found, run, report["certificates"])
    _times(found, report["records"], calm_from, churn_from, churn_to + AFTER_S, churn_to + AFTER_S + pace.calm_s / 2)
    return found


def _judge(found: Result, run: Run, records: Sequence[dict[str, Any]]) -> None:
    world, name = run.world, run.load.name
    executions = world.executions(name)
    accesses = world.accesses(name)
    killed = {each.authority: each.killed_at for each in run.killed}
    found.requests = len(records)
    found.retried = sum(line["attempts"] > 1 for line in accesses.values())
    for record in records:
        executed = executions.get((record["method"], record["id"]), 0)
        line = accesses.get(record["id"], {})
        if record["method"] == "POST" and executed > 1:
            found.duplicated += 1
            found.losses.append({"what": "duplicated", "executed": executed, **record, "gateway": line})
        if not record["kind"] and executed:
            continue
        killed_at = killed.get(line.get("endpoint", ""))
        excused = (
            killed_at is not None
            and record["method"] == "POST"
            and line.get("reason") == "UpstreamReset"
            and record["sent_at"] <= killed_at + IN_FLIGHT_S
        )
        if excused:
            found.in_flight += 1
        else:
            found.lost += 1
        what = "in flight on a killed process" if excused else "lost"
        if not record["kind"]:
            what = "answered, but executed by nobody"
        found.losses.append({"what": what, "executed": executed, **record, "gateway": line})


def _certificates(found: Result, run: Run, seen: Sequence[tuple[float, str]]) -> None:
    """Every handshake shows the newest certificate, at the latest three seconds after it was put there."""
    if not run.rotated:
        return
    found.notes.append(f"{len(seen)} handshakes, {len({digest for _, digest in seen})} certificates")
    for at, digest in seen:
        allowed = {new for when, new in run.rotated if at >= when}
        if at >= run.rotated[0][0] + 3.0 or digest in allowed:
            due = [new for when, new in run.rotated if at >= when + 3.0]
            newest = due[-1:] + [new for when, new in run.rotated if when <= at < when + 3.0]
            if digest not in newest:
                found.problems.append(
                    f"a handshake {at - run.rotated[0][0]:.1f} s after the first rotation saw an old certificate"
                )
    if not any(digest == run.rotated[-1][1] for _, digest in seen):
        found.problems.append("nobody saw the last certificate")


def _times(
    found: Result,
    records: Sequence[dict[str, Any]],
    calm_from: float,
    churn_from: float,
    churn_to: float,
    calm_to: float,
) -> None:
    def of(loop: str, start: float, end: float) -> list[float]:
        return [
            each["done_at"] - each["due_at"]
            for each in records
            if each["loop"] == loop
            and start <= each["due_at"] < end
            and not (each["kind"] or each["id"].endswith("-slow"))
        ]

    def calm_of(loop: str) -> list[float]:
        return of(loop, calm_from, churn_from) + of(loop, churn_to, calm_to)

    calm, churn = calm_of("open"), of("open", churn_from, churn_to)
    found.calm_p50_ms, found.calm_p99_ms = quantile_ms(calm, 0.5), quantile_ms(calm, 0.99)
    found.churn_p50_ms, found.churn_p99_ms = quantile_ms(churn, 0.5), quantile_ms(churn, 0.99)
    found.churn_max_ms = quantile_ms(churn, 1.0)
    found.closed_calm_p99_ms = quantile_ms(calm_of("closed"), 0.99)
    found.closed_churn_p99_ms = quantile_ms(of("closed", churn_from, churn_to), 0.99)
    late = [e["sent_at"] - e["due_at"] for e in records if e["loop"] == "open" and churn_from <= e["due_at"] < churn_to]
    found.late_p99_ms = quantile_ms(late, 0.99)
    if found.calm_p99_ms and found.churn_p99_ms:
        found.ratio = round(found.churn_p99_ms / found.calm_p99_ms, 2)
