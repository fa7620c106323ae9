"""Nanoseconds of each decision of the data path, alone: what a change to one of them is worth.

Each probe runs until a measurement takes a fifth of a second; the fastest of seven counts, because everything that
disturbs makes it slower. The loop's own cost is in it (a few nanoseconds). Kept in `benchmarks/results/micro.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import timeit
from pathlib import Path

import probes
import results

REPEATS = 7


def measure(probe: probes.Probe) -> float:
    """Return the nanoseconds of one time."""
    timer = timeit.Timer(probe.statement, globals=dict(probe.names))
    number, _ = timer.autorange()
    gc.collect()
    return min(timer.repeat(REPEATS, number)) / number / probe.times * 1e9


def main() -> int:
    """Measure, print, keep. Returns 1 when a group of probes could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", help=f"which, comma-separated (default all), of {', '.join(probes.GROUPS)}")
    parser.add_argument("--output", type=Path, default=results.FOLDER, help="folder of micro.json")
    asked = parser.parse_args()
    names = asked.group.split(",") if asked.group else list(probes.GROUPS)
    if unknown := [name for name in names if name not in probes.GROUPS]:
        parser.error(f"unknown group {', '.join(unknown)}; there are {', '.join(probes.GROUPS)}")
    found: dict[str, dict[str, float]] = {}
    missing = []
    for name in names:
        print(name)
        found[name] = {}
        try:
            for probe in probes.GROUPS[name]():
                found[name][probe.what] = round(measure(probe), 1)
                print(f"  {probe.what:40} {found[name][probe.what]:>10,.0f} ns", flush=True)
        except (ImportError, AttributeError, TypeError) as error:
            # The probes call the rooms by name; one that was renamed must not hide the others.
            missing.append(name)
            print(f"  {name} cannot be measured further: {type(error).__name__}: {error}", file=sys.stderr)
    if not asked.group and not missing:
        asked.output.mkdir(parents=True, exist_ok=True)
        kept = {"machine": results.machine(), "nanoseconds": found}
        (asked.output / "micro.json").write_text(json.dumps(kept, indent=2) + "\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
