"""Stats of plugins on the wire, and added up over replicas."""

from __future__ import annotations

import pytest
from nexus_core.snapshot import PluginStats, wire
from nexus_core.snapshot.stats import add_up, decode_stats, encode_stats, stats_key, stats_prefix

ONE = PluginStats(calls=10, errors=1, seconds=0.5, cpu_s=0.2, calls_per_s=2.0, p99_s=0.01, cpu_percent=30.0)
OTHER = PluginStats(calls=5, errors=0, seconds=0.25, cpu_s=0.1, calls_per_s=1.0, p99_s=0.04, cpu_percent=5.0)


def test_stats_come_back_as_they_were() -> None:
    stats = {"shop/b": ONE, "shop/a": PluginStats()}
    assert decode_stats(encode_stats(stats)) == stats
    assert encode_stats(stats) == encode_stats(dict(reversed(stats.items())))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a": 1}', b'{"a": {"calls": "x"}}'])
def test_what_are_no_stats_is_told(data: bytes) -> None:
    with pytest.raises(wire.WireError, match="stats of plugins cannot be read"):
        decode_stats(data)


def test_replicas_add_up() -> None:
    both = add_up([ONE, OTHER])
    assert (both.calls, both.errors, both.seconds, both.calls_per_s) == (15, 1, 0.75, 3.0)
    assert (both.p99_s, both.cpu_percent) == (0.04, 35.0)
    assert both.cpu_s == pytest.approx(0.3)
    assert add_up([]) == PluginStats()


def test_a_replicas_key_is_below_the_prefix() -> None:
    assert stats_key("a~1", "mine") == "mine/stats/a~1"
    assert stats_key("a~1", "mine").startswith(stats_prefix("mine"))
