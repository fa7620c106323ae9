"""What a gateway replica says of the Snapshot it runs."""

from __future__ import annotations

from typing import Literal

import msgspec


class CandidateReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a candidate does in one replica. state: `passed` and `refused` are last words. reason, message: as in `PluginReport`."""

    version: str
    state: Literal["running", "passed", "refused"]
    reason: str = ""
    message: str = ""


class PluginReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one plugin instance in one replica.

    state: `loaded` runs as the Snapshot says; `previous` still runs its last good version; `failed` does not run; `disabled` was
    taken out because it went beyond a budget. reason: from the problems catalogue, empty when loaded. message: what and how to fix.
    """

    state: Literal["loaded", "previous", "failed", "disabled"]
    version: str = ""
    reason: str = ""
    message: str = ""
    candidate: CandidateReport | None = None


class PluginStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one plugin instance did in one replica since its start, and lately.

    calls, errors: of all hooks. seconds: that the calls took; cpu_s: that they held the event loop. calls_per_s, p99_s, cpu_percent:
    over the last half minute.
    """

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    calls_per_s: float = 0.0
    p99_s: float = 0.0
    cpu_percent: float = 0.0


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica's word that it serves `generation`. It lives as long as the replica's session does.

    replica: unique per process. at_utc: RFC 3339, for people. plugins: by `PluginInstance.id`. gateway: `<namespace>/<name>` of the
    one Gateway it serves, empty for all. listeners: those that it could not open, by `Listener.id`: what is wrong, as a sentence.
    runtime: digest of what decides whether a release is for it, such as its Python and what is installed; empty of earlier versions.
    """

    replica: str
    generation: int
    digest: str
    at_utc: str = ""
    plugins: dict[str, PluginReport] = {}
    gateway: str = ""
    listeners: dict[str, str] = {}
    runtime: str = ""
