"""What the plugins of a gateway cost, as its metrics, statistics and `nexus plugin top` show it.

What is counted, and whether a plugin may go on, is `nexus_hosting.meters`', which services use too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import structs
from nexus_core.snapshot import PluginStats
from nexus_hosting.meters import (
    BOUNDS,
    LATELY_S,
    REASON,
    TRY_CALLS,
    Budget,
    Counts,
    Excess,
    Meter,
    State,
    disabled_report,
)
from nexus_hosting.spreads import Spread

__all__ = [
    "BOUNDS", "LATELY_S", "REASON", "SHOWN", "TRY_CALLS", "Budget", "Counts", "Excess", "Meter", "State", "buckets_of",
    "disabled_report", "quantile", "shown", "stats_of",
]  # fmt: skip

SHOWN = (0.00001, 0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
"""Of the durations in `BOUNDS`, those in metrics: each is a series."""


def stats_of(meters: Sequence[Meter], now: float) -> PluginStats:
    """Return what a plugin did since its start, and lately: of all its versions that run."""
    pairs = [meter.lately(now) for meter in meters]
    lately_s = max((after.at - before.at for before, after in pairs), default=0.0)
    stats = PluginStats(
        sum(meter.calls for meter in meters),
        sum(meter.errors for meter in meters),
        sum(meter.seconds for meter in meters),
        sum(meter.cpu_s for meter in meters),
    )
    if lately_s <= 0:
        return stats
    return structs.replace(
        stats,
        calls_per_s=sum(after.calls - before.calls for before, after in pairs) / lately_s,
        p99_s=quantile(buckets_of(pairs), 0.99),
        cpu_percent=100.0 * sum(after.cpu_s - before.cpu_s for before, after in pairs) / lately_s,
    )


def buckets_of(pairs: Iterable[tuple[Counts, Counts]]) -> list[int]:
    """Return what was counted between counts, added up. By `BOUNDS`, and one beyond."""
    found = [0] * (len(BOUNDS) + 1)
    for before, after in pairs:
        for index, count in enumerate(after.buckets):
            found[index] += count - (before.buckets[index] if before.buckets else 0)
    return found


def shown(spreads: Iterable[Spread]) -> Spread:
    """Return what all of them count, each with `BOUNDS`, by `SHOWN`."""
    found = Spread(SHOWN)
    for each in spreads:
        for bound, count in zip((*BOUNDS, float("inf")), each.buckets, strict=True):
            found.buckets[bisect_left(SHOWN, bound)] += count
        found.sum += each.sum
    return found


def quantile(buckets: list[int], share: float) -> float:
    """Return the duration below which this share of what buckets count lies; 0 for none. buckets: by `BOUNDS`, and one beyond."""
    total = sum(buckets)
    if not total:
        return 0.0
    reached = list(accumulate(buckets))
    index = bisect_left(reached, share * total)
    if index >= len(BOUNDS):
        return BOUNDS[-1]
    low = BOUNDS[index - 1] if index else 0.0
    below = reached[index - 1] if index else 0
    part = (share * total - below) / buckets[index] if buckets[index] else 1.0
    return low + (BOUNDS[index] - low) * part
