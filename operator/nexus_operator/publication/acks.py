"""The gateways' words about what they serve, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from nexus_core.snapshot import (
    Ack,
    Certificate,
    GatewayPart,
    Listener,
    PluginInstance,
    PluginReport,
    Published,
    Route,
    Snapshot,
    StreamRoute,
    Upstream,
    wire,
)

_Item = GatewayPart | Certificate | Listener | Route | StreamRoute | Upstream | PluginInstance


@dataclass(frozen=True, slots=True)
class Liveness:
    """How far a generation has come. live of total: gateways that serve it with all their workers, of all that are alive."""

    live: int
    total: int
    generation: int

    @property
    def everywhere(self) -> bool:
        """True when there is at least one gateway and all serve it."""
        return 0 < self.total == self.live

    def __str__(self) -> str:
        return f"live on {self.live}/{self.total} gateways, generation {self.generation}"


def gateway_of(replica: str) -> str:
    """Return the gateway that an ack's name belongs to: a gateway with several workers acks once for each, as `name~0`, `name~1`."""
    return replica.partition("~")[0]


def reports_of(acks: Iterable[Ack], plugin: str) -> tuple[tuple[str, PluginReport | None], ...]:
    """Return what each gateway reports of one plugin instance, as (gateway, report) by gateway; None: nothing yet.

    Of a gateway's workers the one that cannot run the plugin speaks, then the one that has not said anything, then any.
    """
    reports: dict[str, list[PluginReport | None]] = {}
    for ack in sorted(acks, key=lambda each: each.replica):
        reports.setdefault(gateway_of(ack.replica), []).append(ack.plugins.get(plugin))
    return tuple((gateway, min(found, key=_goodness)) for gateway, found in sorted(reports.items()))


def _goodness(report: PluginReport | None) -> int:
    return 1 if report is None else 2 if report.state == "loaded" else 0


class Ledger:
    """Remembers since which generation each object's part of the Snapshot is what it is.

    So a change of one object leaves the conditions of all others alone: they stay live at the generation that last
    changed them.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, int]] = {}  # source → (fingerprint, generation)
        self._digest = ""
        self._prints = Fingerprints()

    def record(self, published: Published) -> None:
        """Take in a publication; call it for each, in order."""
        if published.digest == self._digest:
            return
        kept: dict[str, tuple[int, int]] = {}
        for source, print_ in self._prints.of(published.snapshot).items():
            known = self._since.get(source)
            kept[source] = known if known is not None and known[0] == print_ else (print_, published.generation)
        self._since, self._digest = kept, published.digest

    def since(self, source: str, fingerprint: int) -> int | None:
        """Return the generation in which the object's part took this form; None when it is not what is published."""
        entry = self._since.get(source)
        return entry[1] if entry is not None and entry[0] == fingerprint else None


class Fingerprints:
    """Hashes of parts of Snapshots, by the object that each part comes from. Parts that are the very same as before are not read again."""

    def __init__(self) -> None:
        self._known: dict[
            int, tuple[_Item, int]
        ] = {}  # by identity; the part itself keeps its identity from another's use

    def of(self, snapshot: Snapshot) -> dict[str, int]:
        """Return a hash of everything in the Snapshot that comes from each object, by its `source`."""
        items: tuple[_Item, ...] = (
            *snapshot.gateways, *snapshot.certificates, *snapshot.listeners, *snapshot.routes, *snapshot.streams,
            *snapshot.upstreams, *snapshot.plugins,
        )  # fmt: skip
        fresh: dict[int, tuple[_Item, int]] = {}
        parts: dict[str, list[int]] = {}
        for item in items:
            known = self._known.get(id(item))
            if known is None:
                known = (item, hash(msgspec.msgpack.encode(item)))
            fresh[id(item)] = known
            parts.setdefault(item.source, []).append(known[1])
        self._known = fresh
        return {source: hash(tuple(hashes)) for source, hashes in parts.items()}


def fingerprints(snapshot: Snapshot) -> dict[str, int]:
    """Return a hash of everything in the Snapshot that comes from each object, by its `source`."""
    return Fingerprints().of(snapshot)


def decode_acks(values: Iterable[tuple[str, bytes]]) -> tuple[tuple[Ack, ...], tuple[str, ...]]:
    """Return the readable acks by replica, and a sentence for each that is not. values: (key, value)."""
    good: list[Ack] = []
    bad: list[str] = []
    for key, value in values:
        try:
            good.append(wire.decode_ack(value))
        except wire.WireError as err:
            bad.append(f"{key}: {err}")
    return tuple(sorted(good, key=lambda ack: ack.replica)), tuple(bad)
