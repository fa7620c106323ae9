"""`mirror`: which requests are copied, and what marks a copy.

A copy is the request as it goes upstream, after plugins and filters: method, target, body, headers, Host included. Some
proxies change the copy's Host (`shop-shadow`); the Gateway API does not, and a service that checks its Host would refuse it.
What tells the copy apart is one header of the gateway's own, `x-nexus-mirror: 1`, so that a service can leave out what a copy
must not do twice.
"""

from __future__ import annotations

from fractions import Fraction

from nexus_core.snapshot import Mirror

NAME = "x-nexus-mirror"
"""A client's own header of this name must not be passed on: it would make a service take a request for a copy."""
LINE = b"x-nexus-mirror: 1\r\n"
"""What a copy carries besides the request's headers."""

_FINEST = 100_000


class MirrorDraw:
    """Spreads copies evenly: after every request the number of copies is within one of its share.

    Deterministic, not random: a mirror of 1 % gets one request in every hundred. Ratios are rounded to hundred-thousandths.
    Cost: ~60 ns.
    """

    __slots__ = ("_credit", "_each", "_whole")

    def __init__(self, policy: Mirror, phase: float = 0.0) -> None:
        """phase: 0..1, how near the first copy is. Draw it at random where draws are often made anew: a draw that begins at 0
        with every change of configuration would copy nothing of a small share."""
        share = Fraction(min(max(policy.ratio, 0.0), 1.0)).limit_denominator(_FINEST)
        self._each, self._whole = share.numerator, share.denominator
        self._credit = min(int(max(phase, 0.0) * self._whole), self._whole - 1)

    def next(self) -> bool:
        """Return whether the next request is copied."""
        credit = self._credit + self._each
        if credit >= self._whole:
            self._credit = credit - self._whole
            return True
        self._credit = credit
        return False
