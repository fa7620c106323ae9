"""What plugins do to one exchange beyond its heads: which upstream, each attempt, bodies, and its end.

Only exchanges that meet a plugin with one of these hooks, or with a candidate beside it, own `Phases`; the others do not pay for it.
"""

from __future__ import annotations

import logging
from functools import partial
from time import time
from typing import TYPE_CHECKING

from nexus_core.hooks import Done, Endpoint, Reply, RequestHead, RouteChoice
from nexus_hosting.bounds import THROWN

from nexus_gateway.edge.intake import Intake
from nexus_gateway.edge.plugins.checking import check_choice
from nexus_gateway.edge.plugins.slots import DONE, ENDPOINT, MAX_NOTES, ROUTE, HookFailed, Later, Slot

if TYPE_CHECKING:
    from nexus_gateway.edge.attempts import Attempt
    from nexus_gateway.edge.ending import Ending
    from nexus_gateway.edge.hooked import Hooked
    from nexus_gateway.edge.outlet import Outlet
    from nexus_gateway.edge.plugins.trials import Trial
    from nexus_gateway.edge.proxy import Proxy
    from nexus_gateway.edge.runtimes import Backend, Runtime

log = logging.getLogger("nexus.gateway.plugins")

Met = list[tuple[Slot, RequestHead]]
"""Plugins, in their order, each with the request as its `on_request` returned it."""


class Phases:
    """met: plugins that do more than look at heads. bits: what they do together, of `slots`; `DONE` also for others that are told. intake:
    the request's body, if they have a say in it; outlet: the response's. began_at: when the request's time began, monotonic: with its
    head, or, where its body was awaited, with the body's end.
    """

    __slots__ = ("_exchange", "_hooked", "_lines", "_told", "_trials", "began_at", "bits", "intake", "met", "outlet")

    def __init__(self, exchange: Ending, hooked: Hooked) -> None:
        self._exchange = exchange
        self._hooked = hooked
        self._trials: list[tuple[Trial, Slot]] = []
        self._lines: dict[int, bytes] = {}
        self._told: Met = []
        self.met: Met = []
        self.bits = 0
        self.intake: Intake | None = None
        self.outlet: Outlet | None = None
        self.began_at = exchange.started_at

    def turn(self, slot: Slot) -> Slot:
        """Return the slot that the exchange stays with: this one, or its candidate's."""
        trial = slot.trial
        assert trial is not None
        taken = trial.turn()
        self._trials.append((trial, taken))
        return taken

    def join(self, slot: Slot, head: RequestHead) -> None:
        """Take note of a plugin that does more than look at heads. head: as its `on_request` returned it."""
        self.met.append((slot, head))
        self.bits |= slot.more
        if slot.more & DONE:
            self._told.append((slot, head))
        if slot.more & ENDPOINT:
            # The short way to a connection asks nobody.
            self._exchange.extras()

    def note_end(self, slot: Slot, head: RequestHead) -> None:
        """Take note of a plugin with which the request ends, or that is left out of it: it is told of the end, and has no other part."""
        if slot.more & DONE:
            self._told.append((slot, head))
            self.bits |= DONE

    def take_body(self) -> bool:
        """Begin with the request's body. Return whether the exchange goes on now; else it will, or it was answered."""
        self.intake = Intake(self._exchange, self._hooked, self)
        return self.intake.begin()

    def close(self) -> None:
        """The exchange is over: nobody waits for more of its bodies."""
        if self.intake is not None:
            self.intake.close()
        if self.outlet is not None:
            self.outlet.close()

    # ---- which upstream

    def route(self, chosen: Backend) -> Backend | None:
        """Return the backend that plugins make of the chosen one; None when one is still to say, or has answered the request."""
        exchange = self._exchange
        entry = exchange.entry
        assert entry is not None
        upstreams = tuple(each.upstream for each in entry.rule.backends)
        index = next(index for index, each in enumerate(exchange.plan.backends) if each is chosen)
        choice = RouteChoice(entry.route.id, entry.rule.id, upstreams[index], upstreams)
        slots = [slot for slot, _ in self.met if slot.does & ROUTE]
        return self._route(slots, choice, choice, chosen)

    def _route(self, slots: list[Slot], first: RouteChoice, choice: RouteChoice, chosen: Backend) -> Backend | None:
        hooked = self._hooked
        for index, slot in enumerate(slots):
            before = choice
            try:
                result = slot.ask("on_route", partial(check_choice, before=before), hooked.head, before)
            except HookFailed:
                if not self._passes(slot):
                    return None
                continue
            if isinstance(result, Later):
                going = self._route_later(slots[index:], first, before, chosen, result)
                self._exchange.proxy.spawn(going, self._exchange.context)
                return None
            taken = self._take_choice(slot, result)
            if taken is None:
                return None
            choice = taken
        return self._backend_of(first, choice, chosen)

    async def _route_later(
        self,
        slots: list[Slot],
        first: RouteChoice,
        choice: RouteChoice,
        chosen: Backend,
        later: Later[RouteChoice | Reply],
    ) -> None:
        """Await the first slot's choice, and go on. slots: it, and those behind it."""
        exchange = self._exchange
        slot = slots[0]
        try:
            result: RouteChoice | Reply = await later.result()
        except HookFailed:
            if exchange.over or not self._passes(slot):
                return
            result = choice
        if exchange.over:
            return
        taken = self._take_choice(slot, result)
        if taken is not None:
            backend = self._route(slots[1:], first, taken, chosen)
            if backend is not None:
                exchange.choose_backend(backend)

    def _take_choice(self, slot: Slot, result: RouteChoice | Reply) -> RouteChoice | None:
        if self._hooked.sampled:
            self._hooked.note(slot, "on_route")
        if isinstance(result, Reply):
            self._exchange.reply(result)
            return None
        return result

    def _backend_of(self, first: RouteChoice, choice: RouteChoice, chosen: Backend) -> Backend:
        if choice.upstream == first.upstream:
            return chosen
        return self._exchange.plan.backends[first.upstreams.index(choice.upstream)]

    def _passes(self, slot: Slot) -> bool:
        """Return whether the request goes on without a plugin that failed; else it is answered."""
        if self._hooked.sampled:
            self._hooked.note(slot, "on_route")
        if not slot.is_closed:
            return True
        self._hooked.unavailable(slot.instance.id)
        return False

    # ---- each attempt

    def sign(self, attempt: Attempt) -> bool:
        """Ask plugins for the headers of one attempt. Return whether it may be made."""
        hooked = self._hooked
        exchange = self._exchange
        endpoint = Endpoint(attempt.endpoint.authority, exchange.upstream_id, attempt.number + 1)
        lines = b""
        for slot, _ in self.met:
            if not slot.does & ENDPOINT:
                continue
            try:
                lines += slot.plain("on_endpoint", slot.lines, hooked.head, endpoint)  # type: ignore[arg-type]  # checks its type
            except HookFailed:
                if slot.is_closed:
                    return False
            if hooked.sampled:
                hooked.note(slot, "on_endpoint")
        if lines:
            self._lines[attempt.number] = lines
        return True

    def lines_of(self, attempt: Attempt) -> bytes:
        """Return the header lines of one attempt."""
        return self._lines.get(attempt.number, b"")

    # ---- the end

    def over(self, seconds: float) -> None:
        """Tell plugins, and the trials of their candidates, that the exchange is over. seconds: that it took."""
        exchange = self._exchange
        if self.bits & DONE:
            # The plugins must not be let go of before they have been told.
            exchange.runtime.users += 1
            # Not now: the response is written first.
            exchange.proxy.loop.call_soon(self._tell, exchange.proxy, exchange.runtime, self._done(seconds))
        else:
            self._end_trials(exchange.status, seconds)

    def _done(self, seconds: float) -> Done:
        exchange = self._exchange
        entry = exchange.entry
        attempt = exchange.attempt
        if attempt is None and exchange.extra is not None and exchange.extra.failed:
            attempt = exchange.extra.failed[-1]
        return Done(
            exchange.status,
            exchange.reason,
            entry.route.id if entry is not None else "",
            exchange.upstream_id,
            attempt.endpoint.authority if attempt is not None else "",
            exchange.attempts,
            seconds,
            exchange.bytes_in,
            exchange.bytes_out,
            exchange.context[16:48].decode("latin-1"),
            exchange.request_id.decode("latin-1"),
            time() - seconds,
        )

    def _tell(self, proxy: Proxy, runtime: Runtime, done: Done) -> None:
        """Tell plugins of a request that is over; what is to be awaited of that runs in the background."""
        try:
            for slot, head in self._told:
                if slot.open:  # not disabled meanwhile
                    self._tell_one(proxy, slot, head, done)
        finally:
            self._end_trials(done.status, done.seconds)
            runtime.left()

    def _tell_one(self, proxy: Proxy, slot: Slot, head: RequestHead, done: Done) -> None:
        later = slot.note(head, done)
        if later is None:
            return
        if slot.notes >= MAX_NOTES:
            slot.dropped("on_done")
            try:
                later.drop()
            except THROWN as error:  # what is no coroutine has code of its own for that
                log.warning("plugin %s failed in on_done: %s", slot.instance.id, slot.told(error))
            return
        slot.notes += 1
        if slot.running is not None:
            slot.running.acquire()
        proxy.spawn(_note_later(slot, later), self._exchange.context)

    def _end_trials(self, status: int, seconds: float) -> None:
        for trial, slot in self._trials:
            trial.ended(slot, status, seconds)
        self._trials.clear()


async def _note_later(slot: Slot, later: Later[None]) -> None:
    try:
        await later.result()
    except HookFailed:
        return  # counted and logged
    finally:
        slot.notes -= 1
        if slot.running is not None:
            await slot.running.release()
