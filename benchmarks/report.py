"""Writes the tables of `docs/explanation/performance.md` from `benchmarks/results/*.json`, so that the two cannot differ.

  report.py          rewrite the tables between the markers
  report.py --check  change nothing; fail when a table is not what the results say

A marker is `<!-- results: NAME -->` and ends at `<!-- end -->`. NAME is a scenario, `churn` for the churn suite's steps, `control` for
the control plane, `plugins` for what these cost, or `goals` for the list of what the project wants of the gateway and what was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control import figures as control_figures

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
_MARKED = re.compile(r"(<!-- results: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SUBJECT = "nexus"
_SETTLED = 20.0
"""Times the smallest round's value that the largest may be; beyond, a median is chance."""
_NOT_YET = "Not measured yet.\n"

Kept = Mapping[str, Any]
"""One scenario's JSON, as `results.report` makes it."""

TITLES: Mapping[str, str] = {
    "cpu_us": "CPU µs a request",
    "requests_per_s": "requests/s",
    "mb_per_s": "MB/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "max_ms": "longest ms",
    "rss_mb": "RSS MB",
    "busy_ratio": "core busy",
    "rate_per_s": "rate/s",
    "calm_p99_ms": "p99 calm ms",
    "changing_p99_ms": "p99 changing ms",
    "p99_times": "times",
    "calm_block_ms": "longest wait calm ms",
    "block_ms": "longest wait changing ms",
    "in_force_ms": "in force after ms",
    "plain_bytes": "bytes, plain",
    "tls_bytes": "bytes, TLS",
    "one_cpu_us": "1 worker: CPU µs",
    "two_cpu_us": "2 workers: CPU µs",
    "cpu_times": "CPU, times",
    "one_requests_per_s": "1 worker: requests/s",
    "two_requests_per_s": "2 workers: requests/s",
    "start_mb": "start MB",
    "settled_mb": "after a fifth MB",
    "end_mb": "end MB",
    "growth_mb": "growth since MB",
    "requests": "requests",
}
"""The figures that tables show, in this order, where a scenario has them."""
_THROUGHPUT = ("cpu_us", "requests_per_s", "p50_ms", "p99_ms", "rss_mb", "busy_ratio")
_BODIES = ("cpu_us", "mb_per_s", "requests_per_s", "p99_ms", "busy_ratio")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "repeated": _THROUGHPUT,
    "varied": _THROUGHPUT,
    "tls": _THROUGHPUT,
    "h2-tls": _THROUGHPUT,
    "grpc": _THROUGHPUT,
    "body-64k": _BODIES,
    "body-1m": _BODIES,
    "latency": ("rate_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms"),
    "swap": ("calm_p99_ms", "changing_p99_ms", "p99_times", "calm_block_ms", "block_ms", "in_force_ms"),
    "idle": ("plain_bytes", "tls_bytes"),
    "workers": ("one_cpu_us", "two_cpu_us", "cpu_times", "one_requests_per_s", "two_requests_per_s"),
    "memory": ("start_mb", "settled_mb", "end_mb", "growth_mb", "requests"),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of Nexus. figure: of the scenario. relative: as a multiple of the reference's. least: else a most."""

    what: str
    scenario: str
    figure: str
    bound: float
    unit: str = ""
    relative: bool = False
    least: bool = False

    def measured(self, kept: Kept) -> float:
        """Return the measured value. Raises KeyError when the scenario has none for Nexus."""
        table = kept["ratios" if self.relative else "medians"]
        return float(table[_SUBJECT][self.figure])

    def verdict(self, value: float, kept: Kept) -> str:
        """Return whether a value is as wanted, in a word; or that rounds differ too much to say."""
        rounds = [float(each[self.figure]) for each in kept["rounds"] if each["proxy"] == _SUBJECT]
        if min(rounds) > 0 and max(rounds) > _SETTLED * min(rounds):
            return "rounds differ too much to say"
        return "yes" if (value >= self.bound if self.least else value <= self.bound) else "**no**"


GOALS = (
    Goal("repeated small requests: CPU per request", "repeated", "cpu_us", 0.65, relative=True),
    Goal("varied requests: CPU per request", "varied", "cpu_us", 0.70, relative=True),
    Goal("repeated: requests/s per core", "repeated", "requests_per_s", 1.5, relative=True, least=True),
    Goal("p99 at 70 % of own capacity", "latency", "p99_ms", 1.0, relative=True),
    Goal("TLS keep-alive: CPU per request", "tls", "cpu_us", 0.70, relative=True),
    Goal("HTTP/2 over TLS: CPU per request", "h2-tls", "cpu_us", 1.0, relative=True),
    Goal("gRPC, HTTP/2 to HTTP/2: CPU per call", "grpc", "cpu_us", 1.0, relative=True),
    Goal("64 KiB bodies: CPU per request", "body-64k", "cpu_us", 0.65, relative=True),
    Goal("1 MiB bodies: throughput", "body-1m", "mb_per_s", 0.8, relative=True, least=True),
    Goal("idle connection, plain", "idle", "plain_bytes", 4096, " bytes"),
    Goal("idle connection, TLS", "idle", "tls_bytes", 30720, " bytes"),
    Goal("RSS with 5,000 routes", "memory", "end_mb", 60, " MB"),
    Goal("RSS growth over the soak", "memory", "growth_mb", 1, " MB"),
    Goal("2 workers: CPU per request, times one's", "workers", "cpu_times", 1.1, " ×"),
    Goal("route change: longest wait", "swap", "block_ms", 5, " ms"),
    Goal("route changes each second: p99, times calm", "swap", "p99_times", 1.5, " ×"),
)


def load(folder: Path = RESULTS) -> dict[str, Kept]:
    """Return the kept results by scenario."""
    found = {}
    for name in (*COLUMNS, "churn", "control", "plugins"):
        path = folder / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    return found


def render(page: str, kept: Mapping[str, Kept]) -> str:
    """Return the page with every marked table made from the results. Raises KeyError for a marker that names nothing."""

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        if name == "goals":
            body = goals(kept)
        elif name == "churn":
            body = churn(kept.get(name))
        elif name == "control":
            body = control_figures.table(kept[name]) if name in kept else _NOT_YET
        elif name == "plugins":
            body = plugins(kept.get(name))
        else:
            body = _of_scenario(name, kept.get(name))
        return f"{found[1]}{body}{found[3]}"

    return _MARKED.sub(replace, page)


def _of_scenario(name: str, kept: Kept | None) -> str:
    columns = COLUMNS[name]
    if kept is None:
        return _NOT_YET
    rows = []
    for proxy, figures in kept["medians"].items():
        times = kept["ratios"].get(proxy, {})
        rows.append([_proxy(proxy), *(_cell(column, figures[column], times.get(column)) for column in columns)])
    return _table(["", *(TITLES[column] for column in columns)], rows) + _source(name, kept)


def _proxy(name: str) -> str:
    return f"**{name}**" if name == _SUBJECT else name


def _cell(column: str, value: float, times: float | None) -> str:
    """A value, and in brackets the multiple of the reference's; not for what is a multiple already, nor for conditions."""
    shown = number(value)
    plain = column.endswith(("_times", "_ratio")) or column in ("requests", "rate_per_s", "growth_mb")
    return shown if plain or times is None else f"{shown} ({times:.2f})"


def number(value: float) -> str:
    """Return a value with three digits, or all of the whole ones."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _source(name: str, kept: Kept) -> str:
    machine = kept["machine"]
    turns = len(kept["rounds"]) // max(len(kept["medians"]), 1)
    rounds = "1 round" if turns == 1 else f"medians of {turns} rounds"
    return (
        f"\n{rounds[0].upper()}{rounds[1:]}, {kept['measured_utc'][:10]}, commit {machine['commit']}, {machine['cpu']}, "
        f"kernel {machine['kernel']}, Python {machine['python']}. "
        f"In brackets: times {kept['reference']}'s. [All rounds](../../benchmarks/results/{name}.json).\n"
    )


def goals(kept: Mapping[str, Kept]) -> str:
    """Return the table of goals with what was measured."""
    rows = []
    for goal in GOALS:
        unit = " × Envoy's" if goal.relative else goal.unit
        wanted = f"{'≥' if goal.least else '≤'} {goal.bound:g}{unit}"
        try:
            value = goal.measured(kept[goal.scenario])
        except KeyError:
            rows.append([goal.what, wanted, "not measured yet", ""])
            continue
        # 1.102 beside "at most 1.1" is not 1.10.
        shown = number(value)
        if value != goal.bound and float(shown.replace(",", "")) == goal.bound:
            shown = f"{value:.4g}"
        rows.append([goal.what, wanted, f"{shown}{unit}", goal.verdict(value, kept[goal.scenario])])
    return _table(["", "wanted", "measured", "met"], rows)


PLUGINS: Mapping[str, tuple[str, str]] = {
    "bare": ("Nexus, no plugin installed", ""),
    "again": ("the same, another process: what equal ones differ by", ""),
    "unmatched": ("ten plugins installed, none on this route", "nothing measurable"),
    "one": ("one plugin adds a header", "≤ 2 µs"),
    "five": ("five plugins add a header each", "≤ 8 µs"),
    "granted": ("one plugin adds a header, and was granted nothing else", ""),
    "waiting": ("one plugin adds it in a coroutine", ""),
    "rpc": ("one plugin asks another process for it, one round trip over a Unix socket", ""),
    "envoy": ("Envoy, nothing switched on", ""),
    "envoy-lua": ("Envoy adds the header in Lua", ""),
}
"""What each turn of `benchmarks/plugins` is, and what is wanted of its cost."""


def plugins(kept: Kept | None) -> str:
    """Return the table of what plugins cost a request."""
    if kept is None:
        return _NOT_YET
    rows = []
    for name, (what, wanted) in PLUGINS.items():
        figures, cost, median = kept["medians"][name], kept["costs_us"].get(name), kept["median_costs_us"].get(name)
        shown = [f"{value:+.2f}" if value is not None else "" for value in (cost, median)]
        rows.append([what, number(figures["cpu_us"]), number(figures["requests_per_s"]), *shown, wanted])
    return _table(["", "CPU µs a request", "requests/s", "cost µs", "median", "wanted"], rows) + _source(
        "plugins", kept
    )


def churn(kept: Kept | None) -> str:
    """Return the table of what changed under load, what was lost and what it cost."""
    if kept is None:
        return _NOT_YET
    head = [
        "while",
        "requests",
        "lost",
        "duplicated",
        "in flight on a killed process",
        "p99 calm ms",
        "p99 ms",
        "times",
    ]
    rows = []
    for step in kept["steps"]:
        counts = [f"{step[key]:,}" for key in ("requests", "lost", "duplicated", "in_flight")]
        times = [number(step[key]) for key in ("calm_p99_ms", "churn_p99_ms", "ratio")]
        rows.append([step["title"], *counts, *times])
    machine = kept["machine"]
    about = f"{kept['at'][:10]}, {machine['cpus']} cores, kernel {machine['kernel']}, Python {machine['python']}"
    return _table(head, rows) + f"\n{about}. [All figures](../../benchmarks/results/churn.json).\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def main(say: Callable[[str], object] = print) -> int:
    """Rewrite or check the page. Returns 1 when the check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    asked = parser.parse_args()
    page = PAGE.read_text()
    wanted = render(page, load())
    if asked.check:
        if page != wanted:
            say(f"{PAGE.relative_to(ROOT)} differs from benchmarks/results. Run: .venv/bin/python benchmarks/report.py")
        return int(page != wanted)
    PAGE.write_text(wanted)
    say(f"wrote the tables of {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
