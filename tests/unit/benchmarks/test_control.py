"""The control plane's figures: worlds that are what they say, and a table that says what was measured."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from nexus_core.model.load import parse
from nexus_core.translate import translate

FOUND = {
    "translation": {"gateways": 50, "routes": 5000, "parse_s": 1.234, "cold_s": 1.5, "one_change_s": 0.0456},
    "edits": {"routes": 1000, "edits": 300, "live_p99_s": 1.25},
}
KEPT: dict[str, Any] = {
    "measured_utc": "2026-01-02T03:04:05+00:00",
    "machine": {"commit": "abc", "cpu": "CPU", "cpu_count": 2, "load_average": 0.5, "kernel": "6", "python": "3.11"},
    "figures": FOUND,
}


def test_rows_say_value_goal_and_verdict_in_one_unit(bench: SimpleNamespace) -> None:
    rows = list(bench.figures.rows(FOUND))
    assert [row[1:] for row in rows] == [
        ("1.23 s", "", ""),
        ("1.5 s", "≤ 2 s", "yes"),
        ("45.6 ms", "≤ 100 ms", "yes"),
        ("1.25 s", "≤ 1 s", "**no**"),
    ]
    assert rows[0][0] == "manifests of 5,000 HTTPRoutes, 50 Gateways and their Services parsed"


def test_every_goal_of_the_control_plane_is_a_figure(bench: SimpleNamespace) -> None:
    assert bench.figures.goals() == {
        "translation": {"cold_s": 2.0, "one_change_s": 0.1},
        "edits": {"live_p99_s": 1.0},
        "crowd": {"operator_rss_mb": 300.0},
        "series": {"series": 2000.0},
    }


def test_page_has_the_kept_run_or_says_that_there_is_none(bench: SimpleNamespace) -> None:
    page = "<!-- results: control -->\nold\n<!-- end -->\n"
    assert "Not measured yet." in bench.report.render(page, {})
    found = bench.report.render(page, {"control": KEPT})
    assert "| the same, p99 | 1.25 s | ≤ 1 s | **no** |" in found
    assert "2 cores, load average 0.5 before" in found
    assert "old" not in found


def test_a_world_translates_without_a_problem(bench: SimpleNamespace) -> None:
    """Else what is measured is how fast mistakes are found."""
    manifests = list(bench.worlds.world(4, 40))
    assert Counter(m["kind"] for m in manifests) == {"GatewayClass": 1, "Gateway": 4, "Service": 8, "HTTPRoute": 40}
    found = translate(parse(m) for m in manifests)
    assert (len(found.snapshot.routes), found.problems) == (40, ())
    assert manifests == list(bench.worlds.world(4, 40))


def test_an_edition_changes_one_route(bench: SimpleNamespace) -> None:
    before, after = bench.worlds.route(7, 4, 40), bench.worlds.route(7, 4, 40, edition=1)
    assert before["metadata"]["name"] == after["metadata"]["name"]
    assert before["spec"] != after["spec"]
    assert before["spec"]["rules"][1:] == after["spec"]["rules"][1:]


def test_translation_is_measured_by_the_names_of_the_table(bench: SimpleNamespace) -> None:
    found = bench.pure.measure(2, 20)
    assert found.keys() - bench.figures.FIGURES["translation"].keys() == {"gateways", "routes"}
    assert bench.figures.FIGURES["translation"].keys() <= found.keys()
