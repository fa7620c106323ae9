"""The gateway's sample of requests: chosen at the end of a request, shown by the admin API, published when asked for.

The hot path counts down (`left`); all else is paid by the few that are taken.
"""

from __future__ import annotations

import os
import random
from typing import Any, Protocol

import msgspec
from nexus_core.match.router import Entry
from nexus_core.snapshot.samples import Sample
from nexus_wire.http1 import RequestBlock, RequestLine

from nexus_gateway.edge import requests
from nexus_gateway.edge.runtimes import Plan
from nexus_gateway.telemetry.sampling import Redaction, Reservoir


class Ended(Protocol):
    """What is looked at of an exchange that is over."""

    @property
    def line(self) -> RequestLine: ...
    @property
    def block(self) -> RequestBlock: ...
    @property
    def entry(self) -> Entry[Plan] | None: ...
    @property
    def status(self) -> int: ...
    @property
    def client_ip(self) -> str: ...


class Samples(Reservoir):
    """Its user does, for each exchange that ended: `samples.left -= 1`, and `samples.take(exchange, now)` when that is below 0."""

    __slots__ = ("_redaction",)

    def __init__(self, size: int, rng: random.Random, now: float) -> None:
        super().__init__(size, rng, now)
        self._redaction = Redaction(os.urandom(32))

    def take(self, exchange: Ended, now: float) -> None:
        """Take an exchange in. Cost: some 10 µs. now: monotonic seconds."""
        self.keep(self._sample(exchange), now)

    def _sample(self, exchange: Ended) -> Sample | None:
        line, block, entry = exchange.line, exchange.block, exchange.entry
        _, host, _ = requests.authority_of(line, block)
        plugins = entry.payload.plugins if entry is not None else ()
        return self._redaction.sample(
            line.method,
            host,
            line.path,
            line.query,
            block.joined.items(),
            exchange.client_ip,
            route=entry.route.id if entry is not None else "",
            rule=entry.rule.id if entry is not None else "",
            plugins=tuple(slot.instance.id for slot in plugins if slot.plugin is not None),
            status=exchange.status,
        )

    def show(self) -> dict[str, Any]:
        """Return the admin API's `/samples`."""
        samples = self.samples
        return {
            "size": self.size,
            "passed": self.passed,
            "held_bytes": self.held_bytes,
            "samples": [msgspec.to_builtins(each) for each in samples],
        }
