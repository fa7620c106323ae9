"""When a slow request gets a second attempt beside the first one.

Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: a second request after the 95th percentile of the expected time shortens
the tail much for 5 % more load. Here that percentile is the live one, and the 5 % are a budget: when an upstream slows down as
a whole, every request looks slow for a while, and hedging them all would double its load at the worst moment.
"""

from __future__ import annotations

from nexus_core.snapshot import Hedge

from nexus_gateway.resilience.budgets import HedgeBudget
from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.resilience.latencies import Latencies

BEYOND = 5
"""Recent response times that lie beyond a percentile, at least, before it is believed: 100 in all for the 95th."""


def delay_s(hedge: Hedge, latencies: Latencies, now: float) -> float | None:
    """Return after how many seconds without an answer a request is hedged; None while too little is known of the upstream."""
    usual_s = latencies.percentile(hedge.percentile, now, BEYOND)
    return max(hedge.min_delay_s, usual_s) if usual_s else None


def may_hedge(
    hedge: Hedge,
    budget: HedgeBudget,
    limiter: Limiter | None,
    now: float,
    *,
    idempotent: bool,
    replayable: bool,
) -> bool:
    """Return whether a second attempt begins now, when the delay is over; it is counted in the budget then.

    replayable: the whole body is here. Never near the limit of what the upstream is sent at once: the second attempt would take the
    place of a request that has none yet.
    """
    if not (idempotent and replayable) or (limiter is not None and limiter.crowded):
        return False
    return budget.take(hedge.budget_ratio, now)
