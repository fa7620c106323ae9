"""The state of all metrics as plain values: added up over workers, and rendered as Prometheus' text format or OpenMetrics.

A state is JSON: `{"workers": ["0"], "counts": {metric: [[labels, value], …]}, "spreads": {metric: [[labels, bounds, buckets,
sum], …]}, "red": [Red.state(), …]}`. Rendering is by hand and in parts: through the library, 5,000 routes would hold up the
event loop for half a second. Sources: Prometheus exposition formats 0.0.4; OpenMetrics 1.0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.red import BOUNDS
from nexus_gateway.telemetry.series import Series

State = dict[str, Any]
Labels = tuple[str, ...]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_COMBINE: dict[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}
_LES = tuple(f'le="{bound}"' for bound in (*BOUNDS, "+Inf"))
_CLASSES = tuple(f"{hundreds}xx" for hundreds in range(10))


def merge(states: Iterable[State]) -> State:
    """Return one state for several workers': counters and histograms added up, gauges as each metric says.

    states: one each, with names that differ. A single one is returned as it is. Metrics that a state does not know count nothing.
    """
    every = list(states)
    if len(every) == 1:
        return every[0]
    counts: dict[str, dict[Labels, float]] = {}
    spreads: dict[str, dict[Labels, list[Any]]] = {}
    red: dict[tuple[str, str], State] = {}
    for state in every:
        worker = ",".join(state["workers"])
        for name, rows in state["counts"].items():
            metric = names.BY_NAME.get(name)
            if metric is None:
                continue  # a worker of another version, during a rolling restart
            into = counts.setdefault(name, {})
            combine = _COMBINE[metric.combine]
            for labels, value in rows:
                key = (*labels, worker) if metric.by_worker else tuple(labels)
                into[key] = combine(into[key], value) if key in into else value
        for name, rows in state["spreads"].items():
            if name not in names.BY_NAME:
                continue
            known = spreads.setdefault(name, {})
            for labels, bounds, buckets, total in rows:
                key = tuple(labels)
                if key in known and known[key][0] == list(bounds):
                    known[key] = [list(bounds), _added(known[key][1], buckets), known[key][2] + total]
                else:
                    known[key] = [list(bounds), list(buckets), total]
        for row in state["red"]:
            pair = (row["route"], row["upstream"])
            red[pair] = _added_red(red[pair], row) if pair in red else row
    return {
        "workers": [name for state in every for name in state["workers"]],
        "counts": {name: [[list(key), value] for key, value in rows.items()] for name, rows in counts.items()},
        "spreads": {name: [[list(key), *row] for key, row in rows.items()] for name, rows in spreads.items()},
        "red": list(red.values()),
    }


def _added(first: Iterable[float], second: Iterable[float]) -> list[float]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _added_red(first: State, second: State) -> State:
    newest = dict(first["exemplars"])
    for bucket, found in second["exemplars"].items():
        if bucket not in newest or found[2] > newest[bucket][2]:
            newest[bucket] = found
    return {
        "route": first["route"],
        "upstream": first["upstream"],
        "codes": _added(first["codes"], second["codes"]),
        "buckets": _added(first["buckets"], second["buckets"]),
        "sum": first["sum"] + second["sum"],
        "exemplars": newest,
    }


def accepts_openmetrics(accept: str) -> bool:
    """Return whether a scraper's Accept header asks for OpenMetrics at least as much as for plain text."""
    weights = {"application/openmetrics-text": -1.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = (item.strip().lower() for item in part.split(";"))
        if kind in weights:
            weight = next((_quality(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
            weights[kind] = max(weights[kind], weight)
    asked = weights["application/openmetrics-text"]
    return asked > 0 and asked >= weights["text/plain"]


def _quality(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


def render(state: Mapping[str, Any], series: Series, *, openmetrics: bool) -> Iterator[str]:
    """Yield the exposition in parts of at most some hundred lines, so that an event loop can do others' work in between.

    state: of one worker or merged; its `red` and the rows of its counts may be any iterables, read as the parts are. series: the bound,
    the same object at each scrape. Series without a count are left out.
    """
    several = len(state["workers"]) > 1
    durations: list[str] = []
    yield _head(names.REQUESTS, openmetrics)
    part: list[str] = []
    for row in series.red(state["red"]):
        if row is None:
            yield "".join(part)
            part = []
            continue
        labels = f'route="{_escaped(row["route"])}",upstream="{_escaped(row["upstream"])}"'
        part += [
            f'{names.REQUESTS.name}_total{{code_class="{_CLASSES[hundreds]}",{labels}}} {_number(count)}\n'
            for hundreds, count in enumerate(row["codes"])
            if count
        ]
        if any(row["buckets"]):
            durations.append(
                _histogram(names.DURATION.name, labels, _LES, row, row["exemplars"] if openmetrics else {})
            )
    yield "".join(part)
    yield _head(names.DURATION, openmetrics)
    for at in range(0, len(durations), 32):
        yield "".join(durations[at : at + 32])
    for metric in names.METRICS:
        if metric not in (names.REQUESTS, names.DURATION):
            yield _head(metric, openmetrics)
            yield from (
                _spread(metric, state, series)
                if metric.kind == "histogram"
                else _counts(metric, state, series, several)
            )
    if openmetrics:
        yield "# EOF\n"


def _head(metric: names.Metric, openmetrics: bool) -> str:
    # In the older format a counter's family is named as its series are.
    name = metric.name if openmetrics or metric.kind != "counter" else f"{metric.name}_total"
    return f"# HELP {name} {_escaped(metric.help)}\n# TYPE {name} {metric.kind}\n"


def _counts(metric: names.Metric, state: Mapping[str, Any], series: Series, several: bool) -> Iterator[str]:
    name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
    keys = (*metric.labels, "worker") if several and metric.by_worker else metric.labels
    rows = series.rows(metric, state["counts"].get(metric.name, ()))
    part: list[str] = []
    for row in rows:
        if row is None:
            yield "".join(part)
            part = []
        else:
            labels, value = row
            part.append(f"{name}{_braced(keys, labels)} {_number(value)}\n")
    yield "".join(part)


def _spread(metric: names.Metric, state: Mapping[str, Any], series: Series) -> Iterator[str]:
    for labels, bounds, buckets, total in series.spreads(metric, state["spreads"].get(metric.name, ())):
        les = tuple(f'le="{bound}"' for bound in (*bounds, "+Inf"))
        yield _histogram(metric.name, _labels(metric.labels, labels), les, {"buckets": buckets, "sum": total}, {})


def _histogram(
    name: str, labels: str, les: tuple[str, ...], row: Mapping[str, Any], exemplars: Mapping[str, list[Any]]
) -> str:
    counts = list(accumulate(row["buckets"]))
    lines = [f"{name}_bucket{{{le},{labels}}} {_number(count)}\n" for le, count in zip(les, counts, strict=True)]
    for bucket, (trace_id, seconds, at_unix) in exemplars.items():
        index = int(bucket)
        lines[index] = f'{lines[index][:-1]} # {{trace_id="{_escaped(trace_id)}"}} {seconds:.6g} {at_unix:.3f}\n'
    lines.append(f"{name}_count{{{labels}}} {_number(counts[-1])}\n{name}_sum{{{labels}}} {row['sum']!r}\n")
    return "".join(lines)


def _braced(keys: tuple[str, ...], values: Iterable[str]) -> str:
    return f"{{{_labels(keys, values)}}}" if keys else ""


def _labels(keys: tuple[str, ...], values: Iterable[str]) -> str:
    return ",".join([f'{key}="{_escaped(value)}"' for key, value in sorted(zip(keys, values, strict=True))])


def _escaped(value: str) -> str:
    if "\\" in value or "\n" in value or '"' in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _number(value: float) -> str:
    return repr(float(value))
