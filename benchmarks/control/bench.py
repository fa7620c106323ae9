"""`make bench-control`: what the control plane costs, in figures; kept as JSON in `benchmarks/results/control.json`."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent / "tests" / "cluster")]

from control import live, pure, series  # noqa: E402 - after the paths above
from gateway import results  # noqa: E402

GOALS = {
    "translation": {"cold_s": 2.0, "one_change_s": 0.1},
    "crowd": {"operator_rss_mb": 300.0},
    "edits": {"live_p99_s": 1.0},
    "series": {"series": 2000.0},
}
"""At most, by part and figure."""


def main() -> None:
    """Measure all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*GOALS, []], help="all of them without any")
    parser.add_argument("--quick", action="store_true", help="a fifth of everything, kept nowhere")
    arguments = parser.parse_args()
    parts = set(arguments.parts or GOALS)
    size = 5 if arguments.quick else 1
    found: dict[str, dict[str, float]] = {}
    if "translation" in parts:
        found["translation"] = pure.in_a_process(50 // size, 5000 // size)
    if "series" in parts:
        found["series"] = series.measure(5000 // size)
    if parts & {"edits", "crowd"}:
        with live.cluster() as running:
            if "edits" in parts:
                found["edits"] = live.edits(running, 1000 // size, 300 // size)
            if "crowd" in parts:
                found["crowd"] = live.crowd(running, 50 // size, 5000 // size)
    for part, figures in found.items():
        for name, value in figures.items():
            goal = GOALS[part].get(name)
            verdict = "" if goal is None else f"   goal ≤ {goal:g}: {'met' if value <= goal else 'MISSED'}"
            print(f"{part:<12} {name:<18} {value:>10g}{verdict}")
    if not arguments.quick and parts == set(GOALS):
        kept = {
            "scenario": "control",
            "measured_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": results.machine(),
            "goals": GOALS,
            "figures": found,
        }
        path = results.FOLDER / "control.json"
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"kept in {path.relative_to(results.FOLDER.parent.parent)}")


if __name__ == "__main__":
    main()
