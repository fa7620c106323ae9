"""`python -m nexus_hosting.judging`: verifies plugins for a gateway. Started by `judges`, never by hand."""

from __future__ import annotations

import sys

import msgspec
from nexus_core.snapshot import PluginInstance
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.verifying import verify

from nexus_hosting import asides
from nexus_hosting.judges import Verdict


def answer(order: bytes) -> bytes:
    """Return the `Verdict` over a `PluginInstance`."""
    try:
        verify(msgspec.json.decode(order, type=PluginInstance))
    except PluginRejected as rejected:
        return msgspec.json.encode(Verdict(rejected.reason, rejected.message, rejected.retryable))
    return msgspec.json.encode(Verdict())


if __name__ == "__main__":
    sys.exit(asides.serve(answer))
