"""How an upstream is balanced and protected. Values only; the gateway's `balance/` and `resilience/` give them life."""

from __future__ import annotations

from typing import Literal

import msgspec

RetryOn = Literal["connect-failure", "reset", "timeout", "502", "503", "504"]


class Balancing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the endpoint of the next attempt is picked."""

    algorithm: Literal["round-robin", "least-request"] = "least-request"
    """`least-request` draws two endpoints and takes the less loaded; `round-robin` is smooth and weighted.
    Default least-request: it keeps slow endpoints from collecting requests and needs no tuning."""


class CircuitBreaker(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an endpoint is refused requests. Circuit open = requests refused."""

    failures: int = 5
    """Consecutive failures (connect errors, resets, timeouts, 502/503/504) of one endpoint that open its circuit."""
    reset_s: float = 10.0
    """Seconds the circuit stays open before one probe request is let through."""


class Retry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which attempts are repeated. Only idempotent requests are, unless nothing of the request was sent."""

    attempts: int = 2
    """Attempts after the first one, at most. 0 turns retries off."""
    on: tuple[RetryOn, ...] = ("connect-failure", "reset", "503")
    """Outcomes that are repeated, sorted."""
    budget_ratio: float = 0.2
    """Retries may be at most this share of the recent requests of the upstream (plus a floor of a few), so that a
    failing upstream is not flooded."""


class Timeouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Deadlines of one request. Zero turns one off."""

    request_s: float = 15.0
    """From the request's head read to the response's head, over all attempts."""
    try_s: float = 0.0
    """For one attempt; 0 = only `request_s` holds."""
    connect_s: float = 2.0
    """To open a connection to an endpoint."""
    idle_s: float = 300.0
    """Without a byte in either direction once a response or tunnel streams."""
