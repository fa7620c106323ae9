"""What the client of an exchange does meanwhile: its body comes, stops or is too large, it reads slowly, leaves, or time is over."""

from __future__ import annotations

import math
from time import monotonic

from nexus_wire.http1 import Refused

from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.trying import Trying
from nexus_gateway.filters import grpc
from nexus_gateway.filters.sizes import refuses_request
from nexus_gateway.resilience import deadlines
from nexus_gateway.resilience.attempts import Blame, blame_for_delay

CLIENT_CLOSED = 499
"""What logs and metrics show for a client that left before the answer; nginx made the number common."""
_PLUGINS_LATE = "Plugins were not done with the upstream's answer in time."
_MAX_PENDING_BYTES = 65536
"""Of a streamed body, held while its connection opens; the client is paused beyond."""


class Receiving(Trying):
    """What an exchange's stream tells it."""

    __slots__ = ()

    # ---- the request's body

    def on_body(self, data: bytes, complete: bool) -> None:
        """Pass a piece of the request's body on, or hold it."""
        self.bytes_in += len(data)
        self.complete = complete
        size = self.plan.size if self.entry is not None else None
        if size is not None and refuses_request(size, -1, self.content_in):
            self.give_up("BodyTooLarge")
            return
        hooked = self.hooked
        phases = hooked.phases if hooked is not None else None
        if phases is not None and phases.intake is not None:
            intake = phases.intake
            if intake.holding:
                intake.take(data, complete)
                return
            if intake.passing:
                changed = intake.change(data, complete)
                if changed is None:
                    return
                data = changed
        extra = self.extra
        if extra is not None and extra.holding is not None:
            extra.holding.append(data)
            if complete:
                self.body = b"".join(extra.holding)
                extra.holding = None
                extra.until_body = False
                self._whole(monotonic())
            else:
                self._more_time()
            return
        if extra is not None and extra.copied is not None:
            self.copy(data)
            if complete:
                self.send_copies()
        attempt = self.attempt
        if attempt is None or attempt.connection is None or attempt.released:
            # Nobody takes it yet: plugins are at work, or the connection is being opened. Or nobody does any more: plugins are at work
            # on a response that is here in full.
            extra = self.extras()
            if extra.pending is None:
                extra.pending = []
            extra.pending.append(data)
            extra.pending_bytes += len(data)
            if extra.pending_bytes > _MAX_PENDING_BYTES and not complete:
                self.stream.pause()
            return
        if data:
            attempt.connection.write(data)
        if complete and self.block.length == -2:
            attempt.connection.finish(self.trailers)
        if not self.responding:
            self._more_time()
        elif self.backend is not None:
            # The answer streams already, and what is silent then is neither side alone.
            self.stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks

    def copy(self, data: bytes) -> None:
        """Keep a piece of the body for its copies, unless it grows too large for them."""
        extra = self.extras()
        if extra.copied is not None and not extra.copied.take(data):
            self._give_copies_up(extra)

    def on_refused(self, refused: Refused) -> None:
        """The request's body is not valid HTTP."""
        self.give_up("BadRequest", refused.detail)

    def too_slow(self) -> None:
        """The request's body comes slower than the gateway waits for, which holds against uploads alone: who is being answered already
        talks with the server, as gRPC's streams do from the beginning, and may say little for hours. Silence has its own bound."""
        if self.over or self.responding or grpc.is_call(self.block.first("content-type")):
            return
        self.call_off()
        self.refuse("BodyTimeout")

    # ---- time

    def _more_time(self) -> None:
        """While a body comes, its end is what the route's time for a request is counted from. The client's own holds as it is."""
        backend = self.backend
        if backend is None or not self.deadline_at:
            return
        now = monotonic()
        request_s = backend.timeouts.request_s
        if request_s:
            self.deadline_at = max(self.deadline_at, min(now + request_s, self._clients_deadline_at()))
        self._set_deadline(now)

    def _clients_deadline_at(self) -> float:
        """Return until when the client waits, as it says itself; infinite when it says nothing."""
        aside = self.block.aside
        client_s = deadlines.client_timeout_s(aside) if aside is not None else None
        return math.inf if client_s is None else self.started_at + client_s

    def on_late(self) -> None:
        """Time is over: the attempt's, the request's, or the silence allowed in a response or tunnel."""
        attempt, extra = self.attempt, self.extra
        if extra is not None and extra.tunnel:
            if attempt is not None and attempt.connection is not None:
                attempt.connection.close()
            self._over(attempt)
            self.stream.close_tunnel()
            return
        outlet = self.outlet
        if outlet is not None and not outlet.begun:
            self.call_off()
            self.refuse("RequestTimeout", _PLUGINS_LATE)
            return
        if self.responding:
            self._break_off("ClientClosed" if self.stream.blocked else "UpstreamReset")
            return
        if extra is not None and extra.until_body:
            self.refuse("BodyTimeout")
            return
        now = monotonic()
        if self._is_early(now):
            return
        if attempt is None:
            self._leave_queue()
            self._failed_for_good("RequestTimeout")
            return
        connection = attempt.connection
        blame = blame_for_delay(
            answered=attempt.status != 0,
            complete=self.complete,
            taking=connection is not None and not connection.blocked,
            queued=connection is None and self.proxy.connector.waits(attempt, attempt.endpoint),
            clients=now >= self._clients_deadline_at(),
        )
        if blame is Blame.CLIENT:
            self.call_off()
            self.refuse("BodyTimeout")
        elif blame is not Blame.GATEWAY:
            self.drop_hedge()
            attempt.timed_out(blamed=blame is Blame.ENDPOINT)
        elif self.deadline_at and now >= self.deadline_at:
            self.call_off()
            self.refuse("RequestTimeout", _PLUGINS_LATE)
        else:
            self._set_deadline(now)  # it was the attempt's time that is over, and the attempt was in time

    # ---- the connection

    def on_gone(self) -> None:
        """The client left: call the upstream off."""
        if self.over:
            return
        attempt = self.attempt
        if self.tunnelled and attempt is not None and attempt.connection is not None:
            # What the client sent last is still written.
            conversation = self.conversation
            if conversation is not None:
                conversation.client_left(lambda: self._client_left_tunnel(attempt))
            else:
                self._client_left_tunnel(attempt)
            return
        self.call_off()
        self.reason = "ClientClosed"
        self.status = self.status or CLIENT_CLOSED
        self._over(None)

    def _client_left_tunnel(self, attempt: Attempt) -> None:
        if self.over:
            return
        connection = attempt.connection
        self._over(attempt)
        if connection is not None:
            connection.close()

    def on_blocked(self) -> None:
        """The client reads slowly."""
        if self.attempt is not None:
            self.attempt.pause()

    def on_ready(self) -> None:
        """The client reads on."""
        if self.attempt is not None:
            self.attempt.resume()

    def _whole(self, now: float) -> None:
        """Send the request, and its copies if all of it is here."""
        raise NotImplementedError

    def send_copies(self) -> None:
        """The body that is copied has come to its end."""
        raise NotImplementedError
