"""What the service needs from the outside: a way for messages to reach the clients of every replica.

Today the event service is that way: each replica subscribes itself (`feeding.py`), so an event reaches all of them, and
`deliver` of the hub fans it out in the process. A broker behind this port (NATS, Redis) may carry messages of POST
/publish and of clients between replicas; the hub is then its sink.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Link

from nexus_websocket.hub import Sent


class Fanout(Protocol):
    """Hands a message to every subscriber of a channel; the hub does so for the clients of this process."""

    def deliver(
        self,
        channel: str,
        data: msgspec.Raw,
        *,
        origin: str,
        parent: Context | None = None,
        links: tuple[Link, ...] = (),
    ) -> Sent:
        """Queue it and return its id and the number of receivers; never waits, raises nothing for a slow or gone client."""
        ...
