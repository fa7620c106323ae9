"""What plugins cost, from what their meters counted: for whoever shows it. Pure; times are handed in.

Deliberately not here: counting, and what follows from the counts, which are `nexus_hosting.meters`'.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import structs
from nexus_core.snapshot import PluginStats

from nexus_hosting.meters import BOUNDS, Counts, Meter


def stats_of(meters: Sequence[Meter], now: float) -> PluginStats:
    """Return what a plugin did since its start, and lately: of all its versions that run. now: monotonic."""
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


def cost_of(meters: Sequence[Meter], now: float) -> dict[str, int | float]:
    """Return the same by the names that `/plugins` has for it, rounded, with what failed lately and the median. now: monotonic."""
    stats = stats_of(meters, now)
    pairs = [meter.lately(now) for meter in meters]
    lately_s = max((after.at - before.at for before, after in pairs), default=0.0)
    failed = sum(after.errors - before.errors for before, after in pairs)
    return {
        "calls": stats.calls,
        "errors": stats.errors,
        "seconds": round(stats.seconds, 6),
        "cpu_seconds": round(stats.cpu_s, 6),
        "calls_per_s": round(stats.calls_per_s, 3),
        "errors_per_s": round(failed / lately_s, 3) if lately_s > 0 else 0.0,
        "p50_s": round(quantile(buckets_of(pairs), 0.5), 9),
        "p99_s": round(stats.p99_s, 9),
        "cpu_percent": round(stats.cpu_percent, 3),
    }


def buckets_of(pairs: Iterable[tuple[Counts, Counts]]) -> list[int]:
    """Return what was counted between counts, added up. By `BOUNDS`, and one beyond."""
    found = [0] * (len(BOUNDS) + 1)
    for before, after in pairs:
        for index, count in enumerate(after.buckets):
            found[index] += count - (before.buckets[index] if before.buckets else 0)
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
