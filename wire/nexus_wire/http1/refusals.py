"""What is not accepted from a peer."""

from __future__ import annotations


class Refused(Exception):
    """A message that is not passed on.

    status: what a client is answered. reason: one word for programs. detail: a sentence for people; empty when the reason says it.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail or reason)
        self.status = status
        self.reason = reason
        self.detail = detail


def bad_request(detail: str) -> Refused:
    """Return the refusal of a request that is not valid HTTP, or that two servers could read in two ways."""
    return Refused(400, "BadRequest", detail)


def bad_response(detail: str) -> Refused:
    """Return the refusal of a response."""
    return Refused(502, "UpstreamProtocolError", detail)
