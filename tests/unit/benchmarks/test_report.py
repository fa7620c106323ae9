"""The page of figures says what the kept results say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PAGE = "before\n<!-- results: idle -->\nold\n<!-- end -->\nbetween\n<!-- results: goals -->\n<!-- end -->\nafter\n"


def kept(bench: SimpleNamespace, plain_bytes: float) -> dict[str, Any]:
    rounds = [
        {"proxy": "nexus", "plain_bytes": plain_bytes, "tls_bytes": 25_000.0},
        {"proxy": "envoy-full", "plain_bytes": 16_000.0, "tls_bytes": 20_000.0},
    ]
    found: dict[str, Any] = bench.results.report("idle", rounds, {}, "envoy-full")
    return found


def test_page_and_results_agree(bench: SimpleNamespace) -> None:
    """When this fails: `.venv/bin/python benchmarks/report.py`."""
    page = bench.report.PAGE.read_text()
    assert bench.report.render(page, bench.report.load()) == page


def test_page_shows_every_scenario_and_the_goals(bench: SimpleNamespace) -> None:
    page = bench.report.PAGE.read_text()
    for name in (*bench.report.COLUMNS, "churn", "control", "goals"):
        assert f"<!-- results: {name} -->" in page


def test_every_goal_and_column_is_a_figure_of_its_scenario(bench: SimpleNamespace) -> None:
    for goal in bench.report.GOALS:
        assert goal.figure in (*bench.report.COLUMNS[goal.scenario], "growth_mb")
    assert all(column in bench.report.TITLES for columns in bench.report.COLUMNS.values() for column in columns)


def test_tables_are_made_between_the_markers_alone(bench: SimpleNamespace) -> None:
    found = bench.report.render(PAGE, {"idle": kept(bench, 3000.0)})
    assert "| **nexus** | 3,000 (0.19) | 25,000 (1.25) |" in found
    assert "old" not in found
    assert found.startswith("before\n<!-- results: idle -->\n|")
    assert found.endswith("<!-- end -->\nafter\n")
    assert bench.report.render(found, {"idle": kept(bench, 3000.0)}) == found


@pytest.mark.parametrize(("plain_bytes", "word"), [(4096.0, "yes"), (4097.0, "**no**")])
def test_goal_that_is_missed_is_said_to_be(bench: SimpleNamespace, plain_bytes: float, word: str) -> None:
    found = bench.report.goals({"idle": kept(bench, plain_bytes)})
    assert f"| idle connection, plain | ≤ 4096 bytes | {plain_bytes:,.0f} bytes | {word} |" in found
    assert "| p99 at 70 % of own capacity | ≤ 1 × Envoy's | not measured yet |  |" in found


def test_what_is_just_above_the_goal_does_not_look_like_it(bench: SimpleNamespace) -> None:
    rounds = [{"proxy": "nexus", "cpu_times": 1.102}]
    kept_workers = bench.results.report("workers", rounds, {}, "envoy-full")
    assert "| ≤ 1.1 × | 1.102 × | **no** |" in bench.report.goals({"workers": kept_workers})


def test_rounds_that_differ_too_much_give_no_verdict(bench: SimpleNamespace) -> None:
    rounds = [{"proxy": "nexus", "p99_times": times} for times in (0.1, 0.4, 145.0)]
    kept_swap = bench.results.report("swap", rounds, {}, "envoy-full")
    assert "| 0.40 × | rounds differ too much to say |" in bench.report.goals({"swap": kept_swap})


def test_churn_table_has_a_row_for_each_step(bench: SimpleNamespace) -> None:
    kept_churn = bench.report.load()["churn"]
    table = bench.report.render("<!-- results: churn -->\n<!-- end -->", {"churn": kept_churn})
    assert table.count("\n| ") == len(kept_churn["steps"]) + 2
    assert "Not measured yet." in bench.report.render("<!-- results: churn -->\n<!-- end -->", {})


def test_marker_that_names_nothing_is_an_error(bench: SimpleNamespace) -> None:
    with pytest.raises(KeyError):
        bench.report.render("<!-- results: nonsense -->\n<!-- end -->", {})


def test_results_that_were_never_kept_are_told(bench: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "idle.json").write_text(json.dumps(kept(bench, 1.0)))
    assert list(bench.report.load(tmp_path)) == ["idle"]
    assert "Not measured yet." in bench.report.render(PAGE, {})
