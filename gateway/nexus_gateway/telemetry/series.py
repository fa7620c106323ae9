"""How many series a scrape shows: a bound that holds whatever is configured, and one place for what is beyond it.

Every route, upstream and endpoint would have its own; with thousands of them that is a hundred thousand series, which cost the
database that stores them more than the gateway costs. So the first ones that count something are shown by themselves, and
the others together under the label value `other`, in numbers that are as right as before: sums of counters never fall, not even
when one of the summed is configured no longer.

Who is shown stays shown, and who is counted with the others stays there, for as long as it is configured: a series that moved
would look like a restart to whoever reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.red import BOUNDS

Row = list[Any]
"""Of a state: label values, value."""
Key = tuple[str, ...]

OTHER = "other"
"""Label value of what has no series of its own. No id is like it: all hold a `/`."""
LEAST = 500
"""The smallest bound: below it there is no room for one of each kind."""
_CONFIGURED = frozenset({"route", "upstream", "endpoint", "plugin", "limit"})
"""Labels with as many values as there is configuration; all others have a few that are in the code."""
_AT_ONCE = 32
"""Rows between two pauses."""
_OF_HISTOGRAM = len(BOUNDS) + 3
_FOLD: dict[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}


class _Chosen:
    """Who of one kind is shown. Told of all there are at each scrape."""

    __slots__ = ("_folded", "_room", "_seen", "_shown")

    def __init__(self, room: int) -> None:
        self._room = room
        self._shown: set[Key] = set()
        self._folded: set[Key] = set()
        self._seen: set[Key] = set()

    def shows(self, key: Key) -> bool:
        self._seen.add(key)
        if key in self._shown:
            return True
        if key not in self._folded and len(self._shown) < self._room:
            self._shown.add(key)
            return True
        self._folded.add(key)
        return False

    def end(self) -> set[Key]:
        """End a scrape: return those that were counted with the others and are no more."""
        gone = self._folded - self._seen
        self._shown &= self._seen
        self._folded &= self._seen
        self._seen.clear()
        return gone


class Series:
    """Bounds the series of all scrapes of one exposition. Call `rows`, `spreads` and `red` once each for a scrape's parts.

    They yield None now and then while they add up, so that whoever drives them can do others' work in between.
    """

    def __init__(self, limit: int) -> None:
        """limit: series at most, `LEAST` or more."""
        every = [metric for metric in names.METRICS if _CONFIGURED.intersection(metric.labels)]
        self._counted = {
            metric: _Chosen(max(limit // (125 if metric.labels[0] == "plugin" else 84), 4))
            for metric in every
            if metric.kind != "histogram"
        }
        self._spreads = {
            names.PLUGIN_DURATION: _Chosen(max(limit // 125, 4)),
            names.PLUGIN_SECONDS: _Chosen(max(limit // 200, 2)),
            names.STREAM_DURATION: _Chosen(max(limit // 400, 1)),
        }
        self._timed = _Chosen(max(limit // 4 // _OF_HISTOGRAM, 1))
        self._answered = _Chosen(max(limit // 7 // 5, 4))
        self._last: dict[tuple[str, Key], Any] = {}
        self._carried: dict[tuple[str, Key], Any] = {}

    def rows(self, metric: names.Metric, rows: Iterable[Row]) -> Iterator[Row | None]:
        """Yield the rows of a counter or gauge: those that are shown as they come, then those of the others."""
        chosen = self._counted.get(metric)
        if chosen is None:
            yield from rows
            return
        counter = metric.kind == "counter"
        fold = _FOLD["sum" if counter else metric.fold or metric.combine]
        others: dict[Key, float] = {}
        if counter:
            others = {key: value for (name, key), value in self._carried.items() if name == metric.name}
        for done, row in enumerate(rows):
            if done % _AT_ONCE == _AT_ONCE - 1:
                yield None
            labels, value = row
            key = tuple(labels)
            if chosen.shows(key):
                yield row
                continue
            into = _others_key(metric.labels, key)
            others[into] = fold(others[into], value) if into in others else value
            if counter:
                self._last[metric.name, key] = value
        for gone in chosen.end():
            if counter and (lost := self._last.pop((metric.name, gone), None)) is not None:
                into = _others_key(metric.labels, gone)
                self._carried[metric.name, into] = self._carried.get((metric.name, into), 0.0) + lost
                others[into] = others.get(into, 0.0) + lost
        for labels_of_others, value in others.items():
            yield [list(labels_of_others), value]

    def spreads(self, metric: names.Metric, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows of a histogram, `[labels, bounds, buckets, sum]`, in the same way."""
        chosen = self._spreads[metric]
        others: dict[Key, Row] = {
            key: [list(key), *value] for (name, key), value in self._carried.items() if name == metric.name
        }
        for row in rows:
            key = tuple(row[0])
            if chosen.shows(key):
                yield row
                continue
            self._last[metric.name, key] = row[1:]
            _add_spread(others, _others_key(metric.labels, key), row[1:])
        for gone in chosen.end():
            lost = self._last.pop((metric.name, gone))
            into = _others_key(metric.labels, gone)
            _add_spread(others, into, lost)
            carried: dict[Key, Row] = {}
            if (before := self._carried.get((metric.name, into))) is not None:
                _add_spread(carried, into, before)
            _add_spread(carried, into, lost)
            self._carried[metric.name, into] = carried[into][1:]
        yield from others.values()

    def red(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any] | None]:
        """Yield the states of `Red`s: some whole, some without durations, and one for the others with what is missing of both."""
        others = {name: list(value) for name, value in self._carried_red().items()}
        for done, row in enumerate(rows):
            if done % _AT_ONCE == _AT_ONCE - 1:
                yield None
            key = (row["route"], row["upstream"])
            timed, answered = self._timed.shows(key), self._answered.shows(key)
            if timed and answered:
                yield row
                continue
            if answered:
                yield {**row, "buckets": [0] * len(row["buckets"]), "sum": 0.0, "exemplars": {}}
            missing = [[0] * 10 if answered else row["codes"], row["buckets"], row["sum"]]
            self._last["red", key] = missing
            _add_red(others, missing)
        self._answered.end()
        for gone in self._timed.end():
            # Who is timed is answered as well: there is more room for answers.
            lost = self._last.pop(("red", gone))
            _add_red(others, lost)
            carried = self._carried_red()
            _add_red(carried, lost)
            self._carried["red", ()] = [carried["codes"], carried["buckets"], carried["sum"][0]]
        if any(others["codes"]) or any(others["buckets"]):
            yield {
                "route": OTHER,
                "upstream": OTHER,
                "codes": others["codes"],
                "buckets": others["buckets"],
                "sum": others["sum"][0],
                "exemplars": {},
            }

    def _carried_red(self) -> dict[str, list[Any]]:
        codes, buckets, total = self._carried.get(("red", ()), ([0] * 10, [0] * (len(BOUNDS) + 1), 0.0))
        return {"codes": list(codes), "buckets": list(buckets), "sum": [total]}


def _others_key(names_of: tuple[str, ...], values: Key) -> Key:
    return tuple(
        OTHER if name in _CONFIGURED else value
        for name, value in zip((*names_of, *("worker",) * (len(values) - len(names_of))), values, strict=True)
    )


def _add_red(into: dict[str, list[Any]], missing: Row) -> None:
    codes, buckets, total = missing
    into["codes"] = [a + b for a, b in zip(into["codes"], codes, strict=True)]
    into["buckets"] = [a + b for a, b in zip(into["buckets"], buckets, strict=True)]
    into["sum"] = [into["sum"][0] + total]


def _add_spread(into: dict[Key, Row], key: Key, value: Row) -> None:
    bounds, buckets, total = value
    known = into.get(key)
    if known is None:
        into[key] = [list(key), list(bounds), list(buckets), total]
    else:
        into[key] = [list(key), known[1], [a + b for a, b in zip(known[2], buckets, strict=True)], known[3] + total]
