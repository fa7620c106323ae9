"""What follows from one delivery attempt. Pure: a table of HTTP statuses, and backoff with full jitter."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from nexus_events.ports import Outcome
from nexus_events.subscriptions import Delivery


class Verdict(enum.Enum):
    DONE = "delivered"  # 2xx: the subscriber has it
    RETRY = "retry"  # again, after a wait
    BURY = "dead-letter"  # kept with its cause; the next event's turn
    GONE = "gone"  # 410: the subscriber wants no more; the subscription is removed


BUSY = frozenset({0, 408, 425, 429, 502, 503, 504})
"""The subscriber is away or overloaded, which says nothing of the event: these do not count as attempts. 0: no answer."""
HOPELESS = frozenset({400, 413, 415, 422, 431})
"""The subscriber read this very event and will not take it: repeating it would only hold up the ones behind."""
LONGEST_RETRY_AFTER_S = 3600.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 60.0
SHORTEST_WAIT_S = 0.01


@dataclass(frozen=True, slots=True)
class Decision:
    """wait_s: before the next attempt, with RETRY. cause: one line for people; empty with DONE."""

    verdict: Verdict
    wait_s: float = 0.0
    cause: str = ""


def judge(
    outcome: Outcome, delivery: Delivery, *, failed: int, tries: int, age_s: float, rng: random.Random
) -> Decision:
    """Return what to do after an attempt.

    failed: attempts that counted, this one included if it did. tries: all attempts, for the backoff. age_s: since the
    event was accepted.
    """
    if 200 <= outcome.status < 300:
        return Decision(Verdict.DONE)
    cause = outcome.error or f"status {outcome.status}"
    if outcome.status == 410:
        return Decision(Verdict.GONE, cause=cause)
    if outcome.status in HOPELESS:
        return Decision(Verdict.BURY, cause=f"{cause} (refused for good)")
    if failed >= delivery.max_attempts:
        return Decision(Verdict.BURY, cause=f"{cause} (attempt {failed} of {delivery.max_attempts})")
    if age_s > delivery.max_age_s:
        return Decision(Verdict.BURY, cause=f"{cause} (older than {delivery.max_age_s:g} s)")
    return Decision(Verdict.RETRY, find_wait_s(outcome, tries, rng), cause)


def counts(outcome: Outcome) -> bool:
    """Whether the attempt is one of `max_attempts`."""
    return outcome.status not in BUSY


def find_wait_s(outcome: Outcome, tries: int, rng: random.Random) -> float:
    """Return the seconds until the next attempt: what the subscriber asked for, or full jitter below a doubling ceiling.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if outcome.retry_after_s is not None and outcome.status in BUSY:
        return min(max(outcome.retry_after_s, SHORTEST_WAIT_S), LONGEST_RETRY_AFTER_S)
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tries - 1, 30))
    return max(SHORTEST_WAIT_S, rng.random() * ceiling)


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds of a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3); None if it is neither. now: Unix seconds."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # the last one: years and zones beyond what C can hold
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)


def to_text(unix_s: float | None) -> str | None:
    """Return RFC 3339 in UTC, or None."""
    return (
        None
        if unix_s is None
        else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
