"""What an attempt's end means, whether another follows, on which endpoint and when. Values in, values out."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Collection

from nexus_core.snapshot import Retry

from nexus_gateway.resilience.budgets import RetryBudget
from nexus_gateway.resilience.endpoints import EndpointState

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""

BACKOFF_BASE_S = 0.025
BACKOFF_MAX_S = 1.0


class Outcome(enum.StrEnum):
    """How an attempt ended. The values of failures that a policy may name are among those of `RetryOn`; the statuses that it
    may name beyond these are no failures of the endpoint."""

    CONNECT_FAILURE = "connect-failure"  # no connection; nothing was sent
    RESET = "reset"  # the connection broke before a response head
    STALE = "stale"  # a pooled connection that the endpoint had closed: it broke on reuse, before a byte of response
    TIMEOUT = "timeout"  # no response head within the attempt's time
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    ANSWERED = "answered"  # any other response
    ABANDONED = "abandoned"  # the client left, or asked for what cannot be: no word on the endpoint


_BY_STATUS = {502: Outcome.BAD_GATEWAY, 503: Outcome.UNAVAILABLE, 504: Outcome.GATEWAY_TIMEOUT}


def outcome_of(status: int) -> Outcome:
    """Return the outcome that a response status means."""
    return _BY_STATUS.get(status, Outcome.ANSWERED)


class Blame(enum.Enum):
    """Whose doing it is that time is over for an attempt that nobody has heard of yet."""

    ENDPOINT = "endpoint"  # it had the request, or would not take more of it, for as long as the route waits
    CLIENT = "client"  # its body stopped coming, though nothing kept it from coming
    NOBODY = "nobody"  # the endpoint had no chance, or less time than the route gives: no word on it
    GATEWAY = "gateway"  # the endpoint has answered; plugins look at its answer


def blame_for_delay(*, answered: bool, complete: bool, taking: bool, queued: bool, clients: bool) -> Blame:
    """Return who is to blame for a delay. Anybody can be slow, or in a hurry, on purpose: neither may open a circuit for others.

    answered: whether the response's head has come. complete: whether the request's body has. taking: whether the endpoint takes
    what comes of it. queued: whether others have all the connections that there may be. clients: whether it is the client's own
    deadline that is over, not the route's.
    """
    if answered:
        return Blame.GATEWAY
    if taking and not complete:
        return Blame.CLIENT
    return Blame.NOBODY if queued or clients else Blame.ENDPOINT


Picker = Callable[[tuple[EndpointState, ...], bytes, float], EndpointState]


def choose(
    live: tuple[EndpointState, ...], tried: Collection[str], pick: Picker, key: bytes, now: float
) -> EndpointState:
    """Return the endpoint of the next attempt: one that was not tried, and only when none is left, any.

    live: one or more. tried: authorities. key: of hashing balancers. Without tried ones the balancer is handed `live` itself, by
    whose identity it may keep state. Circuits that closed or opened since `live` was worked out are the caller's to `acquire`.
    """
    if not tried:
        return pick(live, key, now)
    fresh = tuple(each for each in live if each.authority not in tried)
    return pick(fresh or live, key, now)


def may_retry(
    idempotent: bool,
    outcome: Outcome,
    retry: Retry,
    attempts: int,
    replayable: bool,
    nothing_sent: bool,
    budget: RetryBudget,
    now: float,
    deadline_at: float | None,
    rng: random.Random,
    status: int = 0,
) -> float | None:
    """Return after how many seconds to try again; None when the outcome is the client's to see.

    status: of the answer, for an outcome that says no more than that there is one. attempts: made so far, 1 or more.
    replayable: whether the request can be sent again from its beginning, body and all.
    nothing_sent: not a byte of it went out, so that it may be repeated whatever its method.
    deadline_at: of the whole request; None for never. A retry is counted in the budget.

    A stale connection says nothing of the endpoint and happens without any failure (the endpoint's idle timeout met our
    request), so it is no matter of policy or budget: an idempotent request goes again at once, *on a fresh connection*, which
    cannot be stale, so at most once for each attempt. Other methods are never repeated by it: the endpoint may have acted on the request.
    """
    if not replayable or not (idempotent or nothing_sent):
        return None
    if outcome is Outcome.STALE:
        return 0.0 if deadline_at is None or now < deadline_at else None
    if attempts > retry.attempts or not names(retry, outcome, status):
        return None
    wait_s = backoff_s(attempts, rng, retry.backoff_s)
    if deadline_at is not None and now + wait_s >= deadline_at:
        return None
    return wait_s if budget.take(retry.budget_ratio, now) else None


def names(retry: Retry, outcome: Outcome, status: int = 0) -> bool:
    """Return whether the policy repeats attempts that ended so. status: of the answer; 0 for none."""
    return (str(status) if outcome is Outcome.ANSWERED else outcome.value) in retry.on


def backoff_s(attempts: int, rng: random.Random, least_s: float = 0.0) -> float:
    """Return the pause before the next attempt, in seconds. attempts: made so far, 1 or more. least_s: the shortest there may be.

    Full jitter: uniform between the least and an exponentially growing cap above it. The more the least is, the wider the
    first step: pauses of seconds that differ by milliseconds would be in step.
    Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    cap: float = min(BACKOFF_MAX_S, max(BACKOFF_BASE_S, least_s / 2) * 2 ** (attempts - 1))
    return least_s + rng.uniform(0.0, cap)
