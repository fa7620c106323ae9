"""`make churn`: every step at length, the table on standard output, all numbers in `benchmarks/results/churn.json`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT / "tests" / "cluster")]

from nexus_testbed import components  # noqa: E402

from churn.results import Result, measure  # noqa: E402 - after the line above
from churn.steps import STEPS, Pace  # noqa: E402
from churn.world import making  # noqa: E402

LONG = Pace(calm_s=16.0, repeats=2, pause_s=0.5, rate=150.0)
SHORT = Pace()


def table(results: list[Result]) -> str:
    """Return the table in Markdown."""
    names = (
        "churn",
        "requests",
        "lost",
        "in flight on a killed process",
        "duplicated",
        "retried",
        "p50 calm / churn (ms)",
    )
    rows = [
        f"| {' | '.join(names)} | p99 calm / churn (ms) | ratio | generator late (ms) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {each.title} | {each.requests} | {each.lost} | {each.in_flight} | {each.duplicated} | {each.retried} "
            f"| {each.calm_p50_ms} / {each.churn_p50_ms} | {each.calm_p99_ms} / {each.churn_p99_ms} | {each.ratio} | {each.late_p99_ms} |"
            for each in results
        ),
    ]
    return "\n".join(rows)


async def main(options: argparse.Namespace) -> int:
    pace = SHORT if options.quick else LONG
    steps = [step for step in STEPS if not options.step or step.name in options.step]
    results: list[Result] = []
    with _folder(options.keep) as folder:
        async with making(Path(folder), components.ensure(["consul"])["consul"]) as world:
            for step in steps:
                result = await measure(world, step, pace)
                results.append(result)
                extra = "; ".join((*result.notes, *result.problems))
                sys.stderr.write(
                    f"{step.name}: {result.requests} requests, {result.lost} lost, {result.duplicated} duplicated, "
                    f"{result.retried} retried, p99 {result.calm_p99_ms} → {result.churn_p99_ms} ms"
                    f"{f' ({extra})' if extra else ''}\n"
                )
                for loss in result.losses[:10]:
                    sys.stderr.write(f"    {json.dumps(loss)}\n")
    sys.stdout.write(table(results) + "\n")
    if options.out is not None:
        document = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"python": platform.python_version(), "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release()},
            "pace": asdict(pace),
            "steps": [result.as_json() for result in results],
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    bad = [each.name for each in results if each.lost or each.duplicated or each.problems]
    if bad:
        sys.stderr.write(f"not as it must be: {', '.join(bad)}\n")
    return 1 if bad else 0


def _folder(keep: Path | None) -> contextlib.AbstractContextManager[str]:
    if keep is None:
        # In memory: Consul and gateways wait for the disk at each change, and who writes a line of log meanwhile waits with them.
        memory = Path("/dev/shm")
        return tempfile.TemporaryDirectory(prefix="nexus-churn-", dir=memory if os.access(memory, os.W_OK) else None)
    keep.mkdir(parents=True)
    return contextlib.nullcontext(str(keep))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="as short as the tests")
    parser.add_argument(
        "--step", action="append", choices=[step.name for step in STEPS], help="this one alone; may repeat"
    )
    parser.add_argument("--out", type=Path, default=None, help="file for all numbers, JSON")
    parser.add_argument("--keep", type=Path, default=None, help="directory for logs and ledgers, which then stay")
    sys.exit(asyncio.run(main(parser.parse_args())))
