"""Why a marketplace cannot be followed, as its condition says it."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "MarketplaceUnreachable",
    "MarketplaceExpired",
    "MarketplaceRolledBack",
    "MarketplaceNotTrusted",
    "MarketplaceInvalid",
]
AGAIN = "It is tried again by itself."


class MarketplaceTrouble(Exception):
    """What is read of a marketplace cannot be used. reason: of the problems catalogue. what, fix: sentences.

    retryable: whether it may mend by itself, without anyone changing the resource or the marketplace.
    """

    def __init__(self, reason: Reason, what: str, fix: str, *, retryable: bool = False) -> None:
        super().__init__(f"{what} {fix}")
        self.reason: Reason = reason
        self.what = what
        self.fix = fix
        self.retryable = retryable
