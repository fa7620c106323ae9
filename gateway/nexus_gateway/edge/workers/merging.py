"""One answer of the admin API from several workers' answers. Pure.

Shared state (circuits, ejections, health) is the same in all workers but for a moment; where they differ, the worst is shown. What
each counts for itself is added up. Everything else is the same in all, and the first one's is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]

_ADDED = frozenset(
    {"active", "attempts", "failures", "connections", "idle", "retries", "strikes", "ejections", "requests"}
)
"""Numbers that are of one process alone."""
_WORST_FIRST: Mapping[str, tuple[str, ...]] = {
    "state": ("open", "half-open", "closed", "failed", "disabled", "previous", "pending", "loaded"),
    "circuit": ("open", "half-open", "closed"),
}
"""Words by field, the worst first; a word that is not listed is worse than all."""
_CANDIDATES = ("refused", "running", "passed")
_SUMS = (
    "calls", "errors", "seconds", "cpu_seconds", "calls_per_s", "errors_per_s", "cpu_percent", "memory_bytes", "requests",
    "failed_requests", "in_flight",
)  # fmt: skip
"""Of a plugin, numbers that are of one process alone. CPU is of one core: two workers may have 200 percent."""


def endpoints(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/endpoints`: the union of all endpoints, each once."""
    upstreams: dict[str, list[Answer]] = {}
    for answer in answers:
        for name, pool in answer["upstreams"].items():
            upstreams.setdefault(name, []).append(pool)
    return {"upstreams": {name: pool_of(pools) for name, pools in sorted(upstreams.items())}}


def pool_of(pools: Sequence[Answer]) -> dict[str, Any]:
    """Merge the pools of one upstream."""
    return {**pools[0], "endpoints": rows((pool["endpoints"] for pool in pools), lambda row: row["endpoint"])}


def breakers(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/breakers`."""
    return {"breakers": rows((a["breakers"] for a in answers), lambda row: (row["upstream"], row.get("endpoint", "")))}


def plugins(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/plugins`: a plugin that fails in one worker is shown as it is there; what all of them count is added up.

    A candidate that one worker refuses is refused; it has passed when it has in all.
    """
    merged = rows((answer["plugins"] for answer in answers), lambda row: row["id"])
    for row in merged:
        alike = [each for answer in answers for each in answer["plugins"] if each["id"] == row["id"]]
        row.update(_costs(alike))
        candidates = [each["candidate"] for each in alike if each.get("candidate")]
        if candidates:
            row["candidate"] = candidate(candidates, len(alike))
    return {"plugins": merged}


def candidate(found: Sequence[Answer], workers: int) -> dict[str, Any]:
    """Merge what workers tell of one candidate. found: of those that know of it, one at least. workers: of all that run the plugin."""
    newest = found[-1]["version"]
    alike = [each for each in found if each["version"] == newest]
    worst = min(alike, key=lambda each: _CANDIDATES.index(each["state"]))
    merged = {**worst, **_costs(alike)}
    if merged["state"] == "passed" and len(alike) < workers:
        merged["state"] = "running"
    return merged


def _costs(found: Sequence[Answer]) -> dict[str, Any]:
    """Return the numbers of several workers as those of one: sums, the slowest one's p99, and p50 by their calls."""
    costs: dict[str, Any] = {
        name: sum(each[name] for each in found) for name in _SUMS if all(name in each for each in found)
    }
    if all("p99_s" in each for each in found):
        calls = sum(each["calls_per_s"] for each in found)
        costs["p99_s"] = max(each["p99_s"] for each in found)
        costs["p50_s"] = sum(each["p50_s"] * each["calls_per_s"] for each in found) / calls if calls else 0.0
    return costs


def listeners(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/listeners`: one that a worker does not serve is shown as it is there."""
    worst: dict[str, Answer] = {}
    for answer in answers:
        for row in answer["listeners"]:
            known = worst.get(row["listener"])
            if known is None or (row["problem"] and not known["problem"]):
                worst[row["listener"]] = row
    return {"listeners": [worst[name] for name in sorted(worst)]}


def problems(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/problems`: each once, in the order in which they are first found."""
    found: list[Any] = []
    for answer in answers:
        found.extend(row for row in answer["problems"] if row not in found)
    return {"problems": found}


def explained(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/explain`: the first worker's decision, with all workers' counts of its upstreams."""
    merged = dict(answers[0])
    size = len(merged["upstreams"])
    alike = [a for a in answers if a.get("rule") == merged.get("rule") and len(a["upstreams"]) == size]
    merged["upstreams"] = [
        pool_of(pools) if all("endpoints" in pool for pool in pools) else pools[0]
        for pools in zip(*(answer["upstreams"] for answer in alike), strict=True)
    ]
    return merged


def samples(answers: Sequence[Answer]) -> dict[str, Any]:
    """Merge `/samples`: all of them; each worker samples what it serves."""
    merged = dict(answers[0])
    for name in ("size", "passed", "held_bytes"):
        merged[name] = sum(answer[name] for answer in answers)
    merged["samples"] = [row for answer in answers for row in answer["samples"]]
    return merged


def traces(answers: Sequence[Answer], limit: int) -> dict[str, Any]:
    """Merge `/traces`: the newest first. A worker that did not serve the request has the trace without the gateway's
    own spans; the fullest is taken."""
    fullest: dict[str, Answer] = {}
    for answer in answers:
        for trace in answer["traces"]:
            known = fullest.get(trace["trace_id"])
            if known is None or trace["span_count"] > known["span_count"]:
                fullest[trace["trace_id"]] = trace
    newest = sorted(fullest.values(), key=lambda each: (-each["start_unix_ms"], each["trace_id"]))
    return {"traces": newest[: max(limit, 0)]}


def trace(answers: Sequence[Answer]) -> Answer:
    """Merge `/traces/<id>` of those that have it; one at least."""
    return max(answers, key=lambda each: each["span_count"])


def rows(groups: Iterable[Iterable[Answer]], key: Callable[[Answer], Any]) -> list[dict[str, Any]]:
    """Merge lists of rows: one row for each key, in the order in which keys are first met."""
    found: dict[Any, dict[str, Any]] = {}
    for group in groups:
        for row in group:
            known = found.get(key(row))
            found[key(row)] = dict(row) if known is None else _row(known, row)
    return list(found.values())


def _row(one: dict[str, Any], other: Answer) -> dict[str, Any]:
    base, second = one, other
    for name in _WORST_FIRST:
        if name in one and name in other and _rank(name, other[name]) < _rank(name, one[name]):
            base, second = dict(other), one
            break
    merged = {**second, **base}
    for name in merged:
        if name in _ADDED and name in one and name in other:
            merged[name] = one[name] + other[name]
        elif isinstance(merged[name], bool) and name == "healthy" and name in one and name in other:
            merged[name] = one[name] and other[name]
    return merged


def _rank(name: str, word: object) -> int:
    words = _WORST_FIRST[name]
    return words.index(word) if isinstance(word, str) and word in words else -1
