"""`fallback`: what a client gets when the gateway itself would answer that the upstream failed."""

from __future__ import annotations

import enum

from nexus_core.snapshot import Fallback

STATUSES = frozenset({502, 503, 504})
"""The gateway's own answers that a fallback replaces. What an upstream answers is its own business, whatever the status."""


class Choice(enum.Enum):
    """What follows when no attempt answered."""

    UPSTREAM = "upstream"  # the other upstream is tried, once
    REPLY = "reply"  # the policy's reply
    NONE = "none"  # the gateway's own answer


def choose(
    policy: Fallback, status: int, *, tried: bool, idempotent: bool, replayable: bool, nothing_sent: bool
) -> Choice:
    """Return what follows.

    status: of the gateway's own answer. tried: whether the fallback's upstream had its turn. replayable: whether the whole body
    can be sent (again). nothing_sent: no byte of the request reached an upstream; unless so, a request that is not idempotent
    is not sent to another one: the first may have carried it out.
    """
    if status not in STATUSES:
        return Choice.NONE
    if policy.upstream and not tried and replayable and (idempotent or nothing_sent):
        return Choice.UPSTREAM
    return Choice.REPLY if policy.reply is not None else Choice.NONE
