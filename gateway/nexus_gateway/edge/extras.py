"""What only some exchanges have."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.resilience.endpoints import EndpointState

if TYPE_CHECKING:
    from nexus_gateway.edge.attempts import Attempt
    from nexus_gateway.edge.conversations import Conversation
    from nexus_gateway.edge.mirrors import Collected


class Extras:
    """What only some exchanges have; the others do not pay for it.

    hedge: the second attempt beside the first. tried: authorities. failed: attempts that brought nothing. sticky: the session's
    endpoint. picked: the balancer's choice for the first attempt, already made. hash_key: for hashing balancers.
    response_lines: added to the response's head. holding: pieces of a body that is collected before it is sent. pending: pieces
    that nobody takes yet. delay: until the next step. waiting: for a first endpoint. queued: the bulkhead
    in which it waits for a place. service_probe: it tests the whole service's half-open circuit. fell_back: it is at the
    rule's fallback. invited: its client was asked for the body. until_body: nothing is sent until the body is complete. tunnel: it was
    upgraded. debug: its client may be told.
    grpc: the status that the gateway itself answered a gRPC call with, digits. meant: the HTTP status that says what upstream's
    gRPC status does, of a call that failed; 0 else. copied: a body that is collected for the rule's mirrors while it is sent.
    conversation: of a WebSocket whose messages plugins see.
    """

    __slots__ = (
        "conversation", "copied", "debug", "delay", "failed", "fell_back", "grpc", "hash_key", "hedge", "holding", "invited",
        "meant", "pending", "pending_bytes", "picked", "queued", "response_lines", "service_probe", "sticky", "tried", "tunnel",
        "until_body", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.hedge: Attempt | None = None
        self.tried: set[str] | None = None
        self.failed: list[Attempt] = []
        self.sticky: EndpointState | None = None
        self.picked: EndpointState | None = None
        self.hash_key = b""
        self.response_lines = b""
        self.holding: list[bytes] | None = None
        self.pending: list[bytes] | None = None
        self.pending_bytes = 0
        self.delay: asyncio.TimerHandle | None = None
        self.waiting: asyncio.TimerHandle | None = None
        self.queued: Limiter | None = None
        self.service_probe = False
        self.fell_back = False
        self.invited = False
        self.until_body = False
        self.tunnel = False
        self.debug = False
        self.grpc = ""
        self.meant = 0
        self.copied: Collected | None = None
        self.conversation: Conversation | None = None
