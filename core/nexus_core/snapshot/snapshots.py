"""The Snapshot itself and its published form."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from nexus_core.snapshot.listeners import Certificate, GatewayPart, Listener
from nexus_core.snapshot.plugins import PluginInstance
from nexus_core.snapshot.routes import Route
from nexus_core.snapshot.streams import StreamRoute
from nexus_core.snapshot.upstreams import Upstream


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Everything one gateway runs. Equal snapshots behave the same; all tuples are sorted by `id`."""

    gateways: tuple[GatewayPart, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    listeners: tuple[Listener, ...] = ()
    routes: tuple[Route, ...] = ()
    streams: tuple[StreamRoute, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    plugins: tuple[PluginInstance, ...] = ()


EMPTY = Snapshot()


@dataclass(frozen=True, slots=True)
class Published:
    """A Snapshot with its place in history.

    generation: 1, 2, …: grows by one with each publication of one configuration. digest: hex SHA-256 of its wire form.
    """

    generation: int
    digest: str
    snapshot: Snapshot
