"""Settings of the event service, beside the ones every service has. Pure: reads from a mapping that is handed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from nexus_sdk import SettingsError

from nexus_events.protocol import Limits
from nexus_events.subscriptions import SinkRules

_SIZE = re.compile(r"([0-9]{1,15})\s*(|Ki|Mi|Gi|Ti)\Z")
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
DEFAULT_DIRECTORY = "nexus-data"


@dataclass(frozen=True, slots=True)
class EventSettings:
    """store: `sqlite`, or `memory` for streams that may vanish with the process. (NEXUS_EVENTS_STORE)

    max_store_bytes: of the database file; beyond it publishing is refused with 503. 10Gi; 0: only the disk is the
    bound. (NEXUS_EVENTS_MAX_STORE_BYTES) keep_events, keep_s: retention; whatever is beyond either is deleted, also when a
    subscription has not got it yet. 1,000,000 events and 7 days. (NEXUS_EVENTS_KEEP_EVENTS, NEXUS_EVENTS_KEEP_SECONDS)
    limits: of one request. (NEXUS_EVENTS_MAX_EVENT_BYTES 256Ki, NEXUS_EVENTS_MAX_BATCH 1000)
    max_body_bytes: of one request, 8Mi. (NEXUS_EVENTS_MAX_BODY_BYTES) max_subscriptions: 1000; each costs a task and, with
    a slow subscriber, a connection. (NEXUS_EVENTS_MAX_SUBSCRIPTIONS)
    sinks: where pushes may go. (NEXUS_EVENTS_SINK_HOSTS: comma-separated hosts, `*.suffix`, networks; empty: any)
    """

    store: Literal["sqlite", "memory"] = "sqlite"
    max_store_bytes: int | None = 10 * 2**30
    keep_events: int = 1_000_000
    keep_s: float = 7 * 86_400.0
    limits: Limits = field(default_factory=Limits)
    max_body_bytes: int = 8 * 2**20
    max_subscriptions: int = 1000
    sinks: SinkRules = field(default_factory=SinkRules)


def parse(environ: Mapping[str, str]) -> EventSettings:
    """Return the settings. Raises SettingsError: which variable, what, how to fix."""
    default = EventSettings()
    store = environ.get("NEXUS_EVENTS_STORE") or "sqlite"
    if store not in ("sqlite", "memory"):
        raise SettingsError(
            f"Environment variable NEXUS_EVENTS_STORE: {store!r} cannot be used. Use 'sqlite' or 'memory'."
        )
    return EventSettings(
        store=cast("Literal['sqlite', 'memory']", store),
        max_store_bytes=_size(environ, "NEXUS_EVENTS_MAX_STORE_BYTES", default.max_store_bytes or 0) or None,
        keep_events=max(1, _size(environ, "NEXUS_EVENTS_KEEP_EVENTS", default.keep_events)),
        keep_s=float(max(1, _size(environ, "NEXUS_EVENTS_KEEP_SECONDS", int(default.keep_s)))),
        limits=Limits(
            max(1024, _size(environ, "NEXUS_EVENTS_MAX_EVENT_BYTES", default.limits.event_bytes)),
            max(1, _size(environ, "NEXUS_EVENTS_MAX_BATCH", default.limits.batch)),
        ),
        max_body_bytes=max(1024, _size(environ, "NEXUS_EVENTS_MAX_BODY_BYTES", default.max_body_bytes)),
        max_subscriptions=max(1, _size(environ, "NEXUS_EVENTS_MAX_SUBSCRIPTIONS", default.max_subscriptions)),
        sinks=SinkRules(
            hosts=tuple(h.strip().lower() for h in environ.get("NEXUS_EVENTS_SINK_HOSTS", "").split(",") if h.strip())
        ),
    )


def _size(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = (environ.get(variable) or "").strip()
    if not text:
        return default
    found = _SIZE.match(text)
    if found is None:
        raise SettingsError(
            f"Environment variable {variable}: {text!r} cannot be used. Use a whole number, such as 1000 or 64Mi."
        )
    return int(found[1]) * _UNITS[found[2]]
