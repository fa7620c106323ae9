"""What is measured of the control plane, in words; what is wanted of it; and the table of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Mapping[str, float]]
"""Values by part and name."""


@dataclass(frozen=True, slots=True)
class Figure:
    """what: may name other figures of its part in braces. scale: what the value is multiplied with to be in `unit`. most: the goal,
    in the value's own unit; None for what is only told.
    """

    what: str
    unit: str
    scale: float = 1.0
    most: float | None = None


FIGURES: Mapping[str, Mapping[str, Figure]] = {
    "translation": {
        "parse_s": Figure("manifests of {routes} HTTPRoutes, {gateways} Gateways and their Services parsed", "s"),
        "cold_s": Figure("all of them translated from nothing", "s", most=2.0),
        "cold_cpu_s": Figure("the same, CPU time", "s"),
        "one_change_s": Figure("one route changed: parsed, the world translated again, median", "ms", 1000, 0.1),
        "one_change_cpu_s": Figure("the same, CPU time, median", "ms", 1000),
        "one_change_max_s": Figure("the longest of these", "ms", 1000),
        "encode_s": Figure("the Snapshot written as chunks", "ms", 1000),
    },
    "edits": {
        "all_ready_s": Figure("`kubectl apply` of {routes} HTTPRoutes until all of them are `Ready`", "s"),
        "live_p50_s": Figure("an edit of one of them, `kubectl apply` returned → a request sees it: median of {edits}", "s"),
        "live_p99_s": Figure("the same, p99", "s", most=1.0),
        "live_max_s": Figure("the longest", "s"),
    },
    "crowd": {
        "statuses_s": Figure(
            "{routes} HTTPRoutes and {gateways} Gateways applied: the last status written after the last `kubectl apply`", "s"
        ),
        "operator_rss_mb": Figure("memory of the operator then (RSS)", "MB", most=300.0),
        "operator_peak_mb": Figure("the most that it ever took", "MB"),
    },
    "series": {
        "series": Figure("Prometheus series of a gateway after a request to each of {routes} routes", "", most=2000.0),
        "scrape_kb": Figure("one scrape", "KB"),
        "scrape_ms": Figure("one scrape, time", "ms"),
    },
}  # fmt: skip
"""By part and name. Values without an entry are the sizes of the part."""


def goals() -> dict[str, dict[str, float]]:
    """Return the most that is wanted, by part and name."""
    return {
        part: {name: figure.most for name, figure in figures.items() if figure.most is not None}
        for part, figures in FIGURES.items()
    }


def rows(found: Figures) -> Iterator[tuple[str, str, str, str]]:
    """Yield what was measured, the value, the goal and whether it is met, in words; empty ones where there is no goal."""
    for part, figures in FIGURES.items():
        values = found.get(part, {})
        for name, figure in figures.items():
            if name not in values:
                continue
            sizes = {key: f"{value:,.0f}" for key, value in values.items() if key not in figures}
            value, most = values[name], figure.most
            goal = "" if most is None else f"≤ {_number(most * figure.scale)} {figure.unit}".rstrip()
            verdict = "" if most is None else "yes" if value <= most else "**no**"
            yield figure.what.format(**sizes), f"{_number(value * figure.scale)} {figure.unit}".rstrip(), goal, verdict


def table(kept: Mapping[str, Any]) -> str:
    """Return the page's table of a kept run."""
    lines = [("", "measured", "wanted", "met"), ("---",) * 4, *rows(kept["figures"])]
    machine = kept["machine"]
    about = (
        f"{kept['measured_utc'][:10]}, commit {machine['commit']}, {machine['cpu']}, {machine['cpu_count']} cores, load average "
        f"{machine['load_average']:g} before, kernel {machine['kernel']}, Python {machine['python']}"
    )
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{body}\n{about}. [All figures](../../benchmarks/results/control.json).\n"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
