"""The gateway beside its peers on one pinned core: CPU per request, throughput, latency, memory, and change under load.

Every round of a whole run is kept in `benchmarks/results/<scenario>.json`. The method is in `docs/explanation/performance.md`.

  bench.py                                        everything (`make bench`)
  bench.py --quick                                a short run of everything, to see that it works
  bench.py --scenario varied --rounds 5 --proxies nexus,envoy-full
  bench.py --scenario memory --soak 10000000
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import results
from peers.table import PEERS, REFERENCE
from processes import Unusable, allow_many_files
from scenarios.kinds import Options, Scenario
from scenarios.table import SCENARIOS
from sessions import LOAD_CORE, Stage, stage


def main() -> int:
    """Run what the command line asks for. Returns 1 when a request failed or a scenario could not run, 2 for bad usage."""
    parser = _parser()
    asked = parser.parse_args()
    wanted = _known(parser, asked.scenario or ",".join(SCENARIOS), SCENARIOS, "scenario")
    proxies = _known(parser, asked.proxies, PEERS, "proxy") if asked.proxies else None
    if (os.cpu_count() or 1) < 2:
        parser.error("a run needs two cores: one for the proxy, one for backend and load")
    failed = False
    started = time.monotonic()
    try:
        allow_many_files()
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder, stage(Path(folder)) as around:
            # Neighbours that share a runner and its proxies are measured on the same starts.
            for _, group in groupby((SCENARIOS[name] for name in wanted), key=lambda each: (each.run, each.proxies)):
                failed |= _run(around, list(group), asked, proxies)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    print(f"took {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 1 if failed else 0


def _run(around: Stage, group: Sequence[Scenario], asked: argparse.Namespace, proxies: tuple[str, ...] | None) -> bool:
    """Run scenarios of one runner, print and keep what they found. Returns whether anything failed."""
    options = Options(
        proxies=proxies or group[0].proxies,
        rounds=asked.rounds or (1 if asked.quick else group[0].rounds),
        seconds=asked.seconds or (1 if asked.quick else 2),
        warm_up_s=1,
        connections=asked.connections,
        soak=asked.soak or (50_000 if asked.quick else 1_000_000),
    )
    rounds: dict[str, list[results.Round]] = {scenario.name: [] for scenario in group}
    failed = incomplete = False
    try:
        for name, each in group[0].run(around, options, tuple(rounds)):
            rounds[name].append(each)
            shown = "  ".join(f"{c} {float(each[c]):,.4g}" for c in SCENARIOS[name].columns if c in each)
            print(f"{time.monotonic() - around.started:6.0f} s  {name:9} {each['proxy']:11} {shown}", file=sys.stderr)
    except Unusable as error:
        print(f"{', '.join(rounds)} could not run to the end: {error}", file=sys.stderr)
        failed = incomplete = True
    for scenario in group:
        found = rounds[scenario.name]
        if not found:
            continue
        kept = results.report(scenario.name, found, asdict(options), REFERENCE)
        show(scenario, kept["medians"], kept["ratios"])
        if any(float(each.get("errors", 0)) for each in found):
            print(f"{scenario.name}: requests failed; the figures are not kept", file=sys.stderr)
            failed = True
        elif incomplete or around.lacking:
            print(f"{scenario.name}: not kept, a proxy failed or lacks features", file=sys.stderr)
        elif asked.output or (not asked.quick and options.proxies == scenario.proxies):
            print(f"kept in {results.write(kept, asked.output or results.FOLDER)}\n", file=sys.stderr)
        else:
            print(f"{scenario.name}: a part only, not kept; --output FOLDER keeps it\n", file=sys.stderr)
    return failed


def show(scenario: Scenario, medians: dict[str, dict[str, float]], ratios: dict[str, dict[str, float]]) -> None:
    """Print a scenario's table: medians, and in brackets the multiple of the reference's."""
    print(f"\n{scenario.name}: {scenario.asks}. In brackets: times {REFERENCE}'s.")
    print(f"{'':12}" + "".join(f"{column:>20}" for column in scenario.columns))
    for proxy, figures in medians.items():
        cells = []
        for column in scenario.columns:
            times = ratios.get(proxy, {}).get(column)
            value = f"{figures[column]:,.4g}" if figures[column] < 1000 else f"{figures[column]:,.0f}"
            cells.append(f"{value} ({times:.2f})" if times is not None else value)
        print(f"{proxy:12}" + "".join(f"{cell:>20}" for cell in cells))


def _known(parser: argparse.ArgumentParser, text: str, known: Mapping[str, object], kind: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = "; ".join(f"{name}: {scenario.asks}" for name, scenario in SCENARIOS.items())
    parser.add_argument("--scenario", help=f"which, comma-separated (default all). {listed}".replace("%", "%%"))
    parser.add_argument("--proxies", help=f"which, comma-separated, of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, help="turns of every proxy (default: 5, fewer where one is long)")
    parser.add_argument("--seconds", type=int, help="length of one measurement (default 2)")
    parser.add_argument("--connections", type=int, default=32, help="keep-alive connections (default 32)")
    parser.add_argument("--soak", type=int, help="requests of the memory scenario (default 1,000,000)")
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument(
        "--output", type=Path, help="folder of the JSON files (default for whole runs: benchmarks/results)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
