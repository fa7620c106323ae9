"""`size-limit`: which bodies are too large, decided as early as it can be known.

A length that is announced is judged at once; a body without one (chunked, or until the connection closes) by what has come.
"""

from __future__ import annotations

import enum

from nexus_core.snapshot import SizeLimit


class Verdict(enum.Enum):
    """What becomes of a response."""

    PASS = "pass"  # it goes on
    REFUSE = "refuse"  # nothing of it went out: the client gets 502
    BREAK_OFF = "break-off"  # its status is out: the connection is closed so that nobody takes it for a whole one


def merge(limits: tuple[SizeLimit, ...]) -> SizeLimit | None:
    """Return one limit that is as strict as all together; None when none limits anything."""
    request = min((limit.request_bytes for limit in limits if limit.request_bytes), default=0)
    response = min((limit.response_bytes for limit in limits if limit.response_bytes), default=0)
    return SizeLimit(request, response) if request or response else None


def refuses_request(limit: SizeLimit, length: int, seen: int) -> bool:
    """Return whether a request's body is too large: answer 413.

    length: announced bytes, below 0 for unknown. seen: bytes that have come.
    """
    most = limit.request_bytes
    return most > 0 and (length > most or seen > most)


def judge_response(limit: SizeLimit, length: int, seen: int, *, begun: bool) -> Verdict:
    """Return what becomes of a response. length: bytes announced of the body that follows, below 0 for unknown; 0 when none
    follows, as after HEAD. seen: bytes that have come. begun: whether its head was passed on."""
    most = limit.response_bytes
    if not most or (length <= most and seen <= most):
        return Verdict.PASS
    return Verdict.BREAK_OFF if begun else Verdict.REFUSE
