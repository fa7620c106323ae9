"""Figures of plugins: sums over replicas, written seldom."""

from __future__ import annotations

from nexus_core.snapshot import PluginStats
from nexus_core.snapshot.stats import encode_stats
from nexus_operator.publication.figures import EVERY_S, Figure, Figures, read_stats


def stats(calls_per_s: float, p99_s: float = 0.001, errors: int = 0) -> PluginStats:
    return PluginStats(calls_per_s=calls_per_s, p99_s=p99_s, errors=errors)


def test_replicas_are_added_up_and_the_slowest_gives_the_p99() -> None:
    values = [
        ("nexus/stats/a", encode_stats({"shop/key": stats(10.0, 0.001, 1)})),
        ("nexus/stats/b", encode_stats({"shop/key": stats(20.0, 0.004, 2)})),
        ("nexus/stats/c", b"no stats"),
    ]
    found, bad = read_stats(values)
    figures = Figures()
    figures.take(found, 0.0)
    assert figures.shown["shop/key"] == Figure(30.0, 4.0, 3)
    [sentence] = bad
    assert sentence.startswith("nexus/stats/c: ")


def test_a_figure_changes_by_what_is_worth_a_write() -> None:
    figures = Figures()
    figures.take({"a": stats(100.0)}, 0.0)
    figures.take({"a": stats(109.0, 0.00105)}, EVERY_S)
    assert figures.shown["a"].calls_per_s == 100.0
    figures.take({"a": stats(120.0)}, 2 * EVERY_S)
    assert figures.shown["a"].calls_per_s == 120.0
    figures.take({"a": stats(120.0, errors=1)}, 3 * EVERY_S)
    assert figures.shown["a"].errors == 1, "the first error is one"
    figures.take({"a": stats(0.0, 0.0, 1)}, 4 * EVERY_S)
    assert figures.shown["a"] == Figure(0.0, None, 1)


def test_they_are_due_every_now_and_then() -> None:
    figures = Figures()
    assert figures.is_due(5.0)
    figures.take({}, 5.0)
    assert not figures.is_due(5.0 + EVERY_S / 2)
    assert figures.is_due(5.0 + EVERY_S)


def test_what_no_replica_has_is_forgotten() -> None:
    figures = Figures()
    figures.take({"a": stats(1.0)}, 0.0)
    figures.take({}, EVERY_S)
    assert not figures.shown


def test_figures_have_three_digits() -> None:
    figures = Figures()
    figures.take({"a": stats(1234.567, 0.0012345)}, 0.0)
    assert figures.shown["a"] == Figure(1230.0, 1.23, 0)
