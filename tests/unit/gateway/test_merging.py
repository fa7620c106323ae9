"""One admin answer from several workers' answers."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_gateway.edge.workers import merging


def endpoint(name: str, **fields: Any) -> dict[str, Any]:
    return {"endpoint": name, "weight": 1, "active": 0, "attempts": 0, "failures": 0, "circuit": "closed", **fields}


def pool(*endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"algorithm": "least-request", "endpoints": list(endpoints)}


def test_counts_are_added_and_the_worst_circuit_is_shown() -> None:
    one = {"upstreams": {"shop/orders": pool(endpoint("a:1", active=2, attempts=10), endpoint("b:1"))}}
    two = {"upstreams": {"shop/orders": pool(endpoint("a:1", active=3, attempts=5, circuit="open"), endpoint("c:1"))}}
    assert merging.endpoints([one, two]) == {
        "upstreams": {
            "shop/orders": pool(
                endpoint("a:1", active=5, attempts=15, circuit="open"), endpoint("b:1"), endpoint("c:1")
            )
        }
    }
    assert one["upstreams"]["shop/orders"]["endpoints"][0]["active"] == 2, "what was handed in is left alone"


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (("closed", "closed"), "closed"), (("closed", "half-open"), "half-open"), (("open", "half-open"), "open"),
        (("closed", "something new"), "something new"),
    ],
)  # fmt: skip
def test_breakers(states: tuple[str, ...], shown: str) -> None:
    answers = [
        {"breakers": [{"upstream": "shop/orders", "endpoint": "a:1", "state": state, "failures": at, "policy": {"failures": 5}}]}
        for at, state in enumerate(states, 1)
    ]  # fmt: skip
    for given in (answers, answers[::-1]):
        [row] = merging.breakers(given)["breakers"]
        assert (row["state"], row["failures"], row["policy"]) == (shown, 3, {"failures": 5})


def test_a_plugin_that_fails_in_one_worker_is_shown_as_it_is_there() -> None:
    good = {"id": "shop/key", "state": "loaded", "running_version": "1.0", "reason": "", "message": ""}
    bad = {"id": "shop/key", "state": "failed", "running_version": "", "reason": "PluginLoadFailed", "message": "no"}
    for answers in ([{"plugins": [good]}, {"plugins": [bad]}], [{"plugins": [bad]}, {"plugins": [good]}]):
        assert merging.plugins(answers) == {"plugins": [bad]}


def test_problems_are_told_once() -> None:
    first, second = {"reason": "A"}, {"reason": "B"}
    assert merging.problems([{"problems": [first]}, {"problems": [first, second]}]) == {"problems": [first, second]}


def test_an_explanation_is_the_first_workers_with_all_workers_counts() -> None:
    def answer(rule: str, active: int) -> dict[str, Any]:
        row = {"upstream": "shop/orders", "found": True, **pool(endpoint("a:1", active=active))}
        return {"rule": rule, "upstreams": [row, {"upstream": "shop/gone", "found": False}]}

    merged = merging.explained([answer("r1", 1), answer("r1", 2), answer("r2", 40)])
    assert merged["rule"] == "r1"
    assert merged["upstreams"][0]["endpoints"][0]["active"] == 3, "a worker on another generation is left out"
    assert merged["upstreams"][1] == {"upstream": "shop/gone", "found": False}


def test_samples_are_those_of_all_workers() -> None:
    def answer(*paths: str) -> dict[str, Any]:
        return {"size": 10, "passed": 100, "held_bytes": 7, "samples": [{"path": path} for path in paths]}

    merged = merging.samples([answer("/a", "/b"), answer("/c")])
    assert (merged["size"], merged["passed"], merged["held_bytes"]) == (20, 200, 14)
    assert [each["path"] for each in merged["samples"]] == ["/a", "/b", "/c"]


def test_traces_are_the_fullest_newest_first() -> None:
    def trace(name: str, start: float, spans: int) -> dict[str, Any]:
        return {"trace_id": name, "start_unix_ms": start, "span_count": spans}

    answers = [
        {"traces": [trace("b", 2.0, 1), trace("a", 1.0, 5)]},
        {"traces": [trace("c", 3.0, 2), trace("b", 2.0, 4)]},
    ]
    assert [(each["trace_id"], each["span_count"]) for each in merging.traces(answers, 2)["traces"]] == [
        ("c", 2),
        ("b", 4),
    ]
    assert merging.traces(answers, 0) == {"traces": []}
    assert merging.trace([trace("a", 1.0, 1), trace("a", 1.0, 3)])["span_count"] == 3


def row(state: str = "loaded", candidate: dict[str, Any] | None = None, **costs: float) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "shop/demo", "state": state, "calls": 10, "errors": 1, "calls_per_s": 2.0, "p50_s": 0.001, "p99_s": 0.01,
        "cpu_percent": 5.0, "memory_bytes": 100, "candidate": candidate,
    }  # fmt: skip
    return {**made, **costs}


def test_what_plugins_cost_is_added_up() -> None:
    found = merging.plugins(
        [{"plugins": [row()]}, {"plugins": [row("disabled", calls=30, calls_per_s=6.0, p50_s=0.005, p99_s=0.5)]}]
    )["plugins"][0]
    assert (found["state"], found["calls"], found["errors"], found["memory_bytes"]) == ("disabled", 40, 2, 200)
    assert (found["calls_per_s"], found["p99_s"], found["cpu_percent"]) == (8.0, 0.5, 10.0)
    assert found["p50_s"] == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("one", "other", "state"),
    [
        ("passed", "passed", "passed"), ("passed", "running", "running"), ("running", "running", "running"),
        ("passed", "refused", "refused"), ("refused", "running", "refused"), ("passed", None, "running"), (None, "refused", "refused"),
    ],
)  # fmt: skip
def test_a_candidate_passes_everywhere_or_not_at_all(one: str | None, other: str | None, state: str) -> None:
    def tried(how: str | None) -> dict[str, Any] | None:
        return {"version": "2.0", "state": how, "requests": 3, "message": f"{how}"} if how is not None else None

    found = merging.plugins([{"plugins": [row(candidate=tried(one))]}, {"plugins": [row(candidate=tried(other))]}])
    candidate = found["plugins"][0]["candidate"]
    assert candidate["state"] == state
    assert candidate["requests"] == 3 * ((one is not None) + (other is not None))
