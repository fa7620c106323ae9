"""Plugins' configurations as people are shown them, of the version that runs and of the one that is tried."""

from __future__ import annotations

import json

from msgspec.structs import replace
from nexus_core.snapshot import Candidate, PluginInstance, Release, Snapshot
from nexus_gateway.telemetry.redactions import REDACTED
from nexus_gateway.telemetry.shown import encode_shown, read_shown, redact_snapshot, show_snapshot

RELEASE = Release(name="d", version="1", api=">=1", package="d", entry_point="d:D", sha256="00", url="d.zip")
CONFIG = json.dumps({"apiKey": "hunter2", "n": 1, "deep": [{"password": "hunter2"}]}, sort_keys=True)
ONE = PluginInstance(id="shop/d", source="NexusPlugin shop/d", release=RELEASE, public_key="k", config=CONFIG)
SNAPSHOT = Snapshot(plugins=(replace(ONE, candidate=Candidate(instance=ONE)),))


def test_no_configuration_shows_its_secrets() -> None:
    shown = show_snapshot(SNAPSHOT)["plugins"][0]
    hidden = {"apiKey": REDACTED, "n": 1, "deep": [{"password": REDACTED}]}
    assert (shown["config"], shown["candidate"]["instance"]["config"]) == (hidden, hidden)
    assert b"hunter2" not in encode_shown(SNAPSHOT)


def test_what_is_shown_can_be_read_again() -> None:
    again = read_shown(show_snapshot(SNAPSHOT))
    assert again == redact_snapshot(SNAPSHOT)
    (plugin,) = again.plugins
    assert plugin.candidate is not None
    assert plugin.candidate.instance.config == plugin.config == CONFIG.replace("hunter2", REDACTED)
    without = Snapshot(plugins=(replace(ONE, config="{}"),))
    assert read_shown(show_snapshot(without)) == without
