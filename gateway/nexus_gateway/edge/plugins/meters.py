"""What the plugins of a gateway cost, as its metrics, statistics and `nexus plugin top` show it.

What is counted, and whether a plugin may go on, is `nexus_hosting.meters`', what it adds up to `nexus_hosting.costs`': services use
both too.
"""

from __future__ import annotations

from collections.abc import Iterable

from nexus_hosting.costs import buckets_of, cost_of, quantile, stats_of
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
    "cost_of", "disabled_report", "quantile", "shown", "stats_of",
]  # fmt: skip

SHOWN = (0.00001, 0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
"""Of the durations in `BOUNDS`, those in metrics: each is a series."""


def shown(spreads: Iterable[Spread]) -> Spread:
    """Return what all of them count, each with `BOUNDS`, by `SHOWN`."""
    found = Spread(SHOWN)
    for each in spreads:
        found.take(each)
    return found
