"""`python -m nexus_hosting.judging`: verifies plugins for a gateway. Started by `judges`, never by hand."""

from __future__ import annotations

import sys

import msgspec
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import asides
from nexus_hosting.configuring import verify
from nexus_hosting.judges import Order, Verdict


def answer(order: bytes) -> bytes:
    """Return the `Verdict` over an `Order`."""
    asked = msgspec.json.decode(order, type=Order)
    try:
        config = verify(asked.instance, asked.secrets)
    except PluginRejected as rejected:
        return msgspec.json.encode(Verdict(rejected.reason, rejected.message, rejected.retryable))
    return msgspec.json.encode(Verdict(config=config))


if __name__ == "__main__":
    sys.exit(asides.serve(answer))
