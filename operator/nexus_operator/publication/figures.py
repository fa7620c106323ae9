"""What the statuses of plugins show of their traffic: changed now and then, and only by what is worth a write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nexus_core.snapshot import PluginStats
from nexus_core.snapshot.stats import add_up, decode_stats
from nexus_core.snapshot.wire import WireError

EVERY_S = 15.0
"""Least time between two changes. Each is a write of each plugin's status, and wakes all who watch it."""
NOTABLE = 0.1
"""Share by which a figure has to differ from the one that is shown."""


@dataclass(frozen=True, slots=True)
class Figure:
    """calls_per_s: three digits. p99_ms: three digits, None while nothing was called lately. errors: since the replicas began."""

    calls_per_s: float
    p99_ms: float | None
    errors: int


class Figures:
    """The figures of all plugins, by `PluginInstance.id`."""

    def __init__(self) -> None:
        self._shown: dict[str, Figure] = {}
        self._taken_at: float | None = None

    @property
    def shown(self) -> Mapping[str, Figure]:
        """What statuses show now."""
        return MappingProxyType(self._shown)

    def is_due(self, now: float) -> bool:
        """Whether `take` would be heard."""
        return self._taken_at is None or now - self._taken_at >= EVERY_S

    def take(self, stats: Mapping[str, PluginStats], now: float) -> None:
        """Take in what the replicas' stats add up to. Plugins that none of them has are forgotten."""
        self._taken_at = now
        fresh: dict[str, Figure] = {}
        for plugin, each in stats.items():
            figure = Figure(_short(each.calls_per_s), _short(each.p99_s * 1e3) if each.p99_s else None, each.errors)
            known = self._shown.get(plugin)
            fresh[plugin] = known if known is not None and not _differs(known, figure) else figure
        self._shown = fresh


def read_stats(values: Iterable[tuple[str, bytes]]) -> tuple[dict[str, PluginStats], tuple[str, ...]]:
    """Return what all replicas' stats add up to, by `PluginInstance.id`, and a sentence for each value that cannot be read.

    values: (key, value).
    """
    found: dict[str, list[PluginStats]] = {}
    bad: list[str] = []
    for key, value in values:
        try:
            for plugin, each in decode_stats(value).items():
                found.setdefault(plugin, []).append(each)
        except WireError as err:
            bad.append(f"{key}: {err}")
    return {plugin: add_up(each) for plugin, each in sorted(found.items())}, tuple(bad)


def _differs(shown: Figure, new: Figure) -> bool:
    pairs = ((shown.calls_per_s, new.calls_per_s), (shown.p99_ms or 0.0, new.p99_ms or 0.0), (shown.errors, new.errors))
    return any(abs(b - a) > NOTABLE * max(abs(a), abs(b)) for a, b in pairs)


def _short(value: float) -> float:
    return float(f"{value:.3g}")
