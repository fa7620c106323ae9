"""What a gateway replica says of the Snapshot it runs."""

from __future__ import annotations

from typing import Literal

import msgspec


class PluginReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one plugin instance in one replica.

    state: `loaded` runs as the Snapshot says; `previous` still runs its last good version; `failed` does not run.
    reason: from the problems catalogue, empty when loaded. message: what and how to fix.
    """

    state: Literal["loaded", "previous", "failed"]
    version: str = ""
    reason: str = ""
    message: str = ""


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica's word that it serves `generation`. It lives as long as the replica's session does.

    replica: unique per process. at_utc: RFC 3339, for people. plugins: by `PluginInstance.id`. gateway: `<namespace>/<name>` of the
    one Gateway it serves, empty for all. listeners: those that it could not open, by `Listener.id`: what is wrong, as a sentence.
    """

    replica: str
    generation: int
    digest: str
    at_utc: str = ""
    plugins: dict[str, PluginReport] = {}
    gateway: str = ""
    listeners: dict[str, str] = {}
