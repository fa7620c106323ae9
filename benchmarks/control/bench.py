"""`make bench-control`: what the control plane costs, in figures; kept as JSON in `benchmarks/results/control.json`."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent / "tests" / "cluster")]

from control import figures, live, pure, series  # noqa: E402 - after the paths above
from gateway import results  # noqa: E402

LIVE = {"edits": (live.edits, (1000, 300)), "crowd": (live.crowd, (50, 5000))}
"""Parts that need a cluster, each in one of its own, and their sizes."""


def main() -> None:
    """Measure all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*figures.FIGURES, []], help="all of them without any")
    parser.add_argument("--quick", action="store_true", help="a fifth of everything, kept nowhere")
    arguments = parser.parse_args()
    parts = [part for part in figures.FIGURES if part in (arguments.parts or figures.FIGURES)]
    size = 5 if arguments.quick else 1
    machine = results.machine()
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        if part == "translation":
            found[part] = pure.in_a_process(50 // size, 5000 // size)
        elif part == "series":
            found[part] = series.measure(5000 // size)
        else:
            measure, sizes = LIVE[part]
            with live.cluster() as running:
                found[part] = measure(running, *(each // size for each in sizes))
        for what, value, goal, met in figures.rows({part: found[part]}):
            print(f"{what:<112} {value:>10}   {goal:<10} {met}", flush=True)
    if not arguments.quick and len(parts) == len(figures.FIGURES):
        kept = {
            "scenario": "control",
            "measured_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "goals": figures.goals(),
            "figures": found,
        }
        path = results.FOLDER / "control.json"
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"kept in {path.relative_to(results.FOLDER.parent.parent)}")


if __name__ == "__main__":
    main()
