"""Endpoints to which no route leads any more: they stay registered while gateways may still run the Snapshot before."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_core.translate import Mirror

RETIRE_S = 60.0
"""Longest time that they stay, for gateways that say nothing."""


class Retiring:
    """The mirrors of one term of one leader. now: monotonic, as everywhere here."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[Mirror, float]] = {}  # by name in Consul

    def replace(self, former: Iterable[Mirror], now: float) -> None:
        """Note that others may have taken the place of these."""
        for mirror in former:
            self._until[mirror.consul_service] = (mirror, now + RETIRE_S)

    def beside(self, wanted: Iterable[Mirror], now: float, *, settled: bool) -> tuple[Mirror, ...]:
        """Return those that stay beside the wanted ones. settled: every gateway is known to run what is wanted."""
        names = {mirror.consul_service for mirror in wanted}
        self._until = {
            name: (mirror, until)
            for name, (mirror, until) in self._until.items()
            if name not in names and now < until and not settled
        }
        return tuple(mirror for mirror, _ in self._until.values())
