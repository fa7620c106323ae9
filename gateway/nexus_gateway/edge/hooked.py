"""What plugins and filters do to one exchange: its head as a value, changed on the way in, and the response's on the way out.

Only exchanges whose rule has plugins or filters, or whose backend has, own a `Hooked`. Plain hooks run at once; an async
one parks the exchange and takes it up again when it is done.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nexus_core.hooks import Reply, RequestHead, ResponseHead

from nexus_gateway.edge import requests
from nexus_gateway.edge.heads import arrived
from nexus_gateway.edge.phases import Phases
from nexus_gateway.edge.plugins.slots import BODIES_IN, BODIES_OUT, PluginUnavailable, Slot
from nexus_gateway.filters.place import HeadFilter, Place
from nexus_gateway.telemetry.finished import Hook

if TYPE_CHECKING:
    from nexus_gateway.edge.ending import Ending

log = logging.getLogger("nexus.gateway")

Then = Callable[[ResponseHead], None]


class Hooked:
    """head: the request as the last hook or filter left it. times: of the hooks, for a request that head sampling records.

    answers: whether anything is done to the response. added_to_response: header lines, if that is all hooks did; None when they did more.
    phases: what plugins do beyond heads; None when they do not. replacement: the reply that a plugin put in the response's place; its
    head goes on as any other one. sampled: whether the times of hooks are kept. seen: who is asked about the response, the last one
    first, and the request as it returned it.
    """

    __slots__ = (
        "_answer", "_arrived", "_exchange", "_filters", "_waiting", "added_to_response", "answers", "head", "phases", "replacement",
        "sampled", "seen", "times",
    )  # fmt: skip

    def __init__(self, exchange: Ending) -> None:
        self._exchange = exchange
        self._filters: list[tuple[HeadFilter, RequestHead]] | None = None
        self._answer: ResponseHead | None = None
        self._waiting: tuple[Slot, RequestHead, Awaitable[object]] | None = None
        self.phases: Phases | None = None
        self.replacement: Reply | None = None
        self.times: list[Hook] | None = None
        extra = exchange.extra
        # The flags' last digit: `contexts.is_sampled`, without the call.
        self.sampled = exchange.context[67] == 49 or (extra is not None and extra.debug)
        self.seen: list[tuple[Slot, RequestHead]] = []
        self.answers = False
        # Header lines that plugins added to the response; None once more than that was changed.
        self.added_to_response: bytes | None = b""
        # The last head that was only added to; `head` is the same, or was made of it.
        self._arrived = exchange.head or arrived(exchange)
        self.head: RequestHead = self._arrived

    # ---- on the way in

    def plugins(self, slots: tuple[Slot, ...], index: int = 0, first: Callable[[], object] | None = None) -> bool:
        """Run the rule's plugins from one on, then its filters. Return whether the exchange goes on to its backend now.

        first: says what the first one's `on_request` made of the head; that was called already. As `Slot.judge_request`.
        """
        exchange = self._exchange
        for slot in slots[index:] if index else slots:
            index += 1
            if slot.trial is not None:
                slot = self._phases().turn(slot)  # the candidate in its place
            head = self.head
            if slot.asks:
                try:
                    result = first() if first is not None else slot.request(head, is_arrived=head is self._arrived)
                except PluginUnavailable as unavailable:
                    if self.sampled:
                        self.note(slot, "on_request")
                    if slot.more:
                        self._phases().note_end(slot, head)
                    self.unavailable(unavailable.plugin)
                    return False
                first = None
                if result is not head:
                    if isinstance(result, RequestHead):
                        self.head = head = result
                        if slot.only_added:
                            self._arrived = result  # type: ignore[assignment]  # an ArrivedHead made it
                    elif isinstance(result, Reply):
                        if slot.more:
                            self._phases().note_end(slot, head)
                        if self.sampled:
                            self.note(slot, "on_request")
                        exchange.reply(result)
                        return False
                    elif result is None:
                        self._leave_out(slot, head)
                        continue
                    else:
                        exchange.proxy.spawn(self._await_plugin(index, slot, result), exchange.context)  # type: ignore[arg-type]
                        return False
                if self.sampled:
                    self.note(slot, "on_request")
            if slot.answers:
                self.seen.append((slot, head))
                self.answers = True
            if slot.more:
                self._join(slot, head)
        return self._passed()

    def _passed(self) -> bool:
        """The request's head went through all plugins. Return whether the exchange goes on to its backend now."""
        phases = self.phases
        if phases is not None and phases.bits & BODIES_IN and not phases.take_body():
            return False
        filters = self._exchange.plan.filters
        return not filters or self.filter(filters)

    def go_on(self) -> None:
        """The request's body went through all plugins, too: go on to the backend."""
        exchange = self._exchange
        filters = exchange.plan.filters
        if not filters or self.filter(filters):
            exchange.choose_backend()

    def _phases(self) -> Phases:
        phases = self.phases
        if phases is None:
            phases = self.phases = Phases(self._exchange, self)
        return phases

    def _leave_out(self, slot: Slot, head: RequestHead) -> None:
        """Go on without a plugin whose `on_request` failed: what its other hooks build on was never done."""
        if self.sampled:
            self.note(slot, "on_request")
        if slot.more:
            self._phases().note_end(slot, head)

    def _join(self, slot: Slot, head: RequestHead) -> None:
        """Take note of a plugin that does more than look at heads."""
        self._phases().join(slot, head)
        if slot.more & BODIES_OUT:
            self.answers = True
            if not slot.answers:
                self.seen.append((slot, head))

    async def _await_plugin(self, index: int, slot: Slot, waiting: Awaitable[object]) -> None:
        exchange = self._exchange
        head = self.head
        try:
            result = await slot.request_later(head, waiting, is_arrived=head is self._arrived)
        except PluginUnavailable as unavailable:
            if self.sampled:
                self.note(slot, "on_request")
            if not exchange.over:
                if slot.more:
                    self._phases().note_end(slot, head)
                self.unavailable(unavailable.plugin)
            return
        if result is not None and self.sampled:
            self.note(slot, "on_request")
        if exchange.over:
            return
        if isinstance(result, Reply):
            if slot.more:
                self._phases().note_end(slot, head)
            exchange.reply(result)
            return
        if result is None:
            self._leave_out(slot, head)
        else:
            if result is not head:
                self.head = result
                if slot.only_added:
                    self._arrived = result  # type: ignore[assignment]  # an ArrivedHead made it
            if slot.answers:
                self.seen.append((slot, result))
                self.answers = True
            if slot.more:
                self._join(slot, result)
        if self.plugins(exchange.plan.plugins, index):
            exchange.choose_backend()

    def change(self, head: RequestHead) -> None:
        """Go on with another head."""
        self.head = head

    def filter(self, filters: tuple[HeadFilter, ...]) -> bool:
        """Run head filters over the request. Return whether it goes on."""
        if not filters:
            return True
        exchange = self._exchange
        entry = exchange.entry
        assert entry is not None
        forwarding, peer, aside = exchange.proxy.forwarding, exchange.stream.context, exchange.block.aside
        scheme = forwarding.scheme(peer, aside)
        said = requests.authority_of(exchange.line, exchange.block)[2]
        place = Place(entry.match.path, scheme, forwarding.port(peer, scheme, said))
        head = self.head
        ran = self._filters
        if ran is None:
            ran = self._filters = []
            self.answers = True
        for each in filters:
            outcome = each.on_request(head, place)
            if isinstance(outcome, Reply):
                exchange.reply(outcome)
                return False
            head = outcome
            ran.append((each, head))
        self.head = head
        return True

    def render(self) -> tuple[bytes, bytes]:
        """Return the request line and header lines for upstream.

        What was only added to (the usual change) is the client's bytes and what was added; anything else is written anew.
        """
        exchange = self._exchange
        came, head, line, block = self._arrived, self.head, exchange.line, exchange.block
        sent = b"".join((came.own, block.forward, b"x-request-id: ", exchange.request_id, came.added))
        if head is came:
            return line.start, sent
        same = head.path is came.path and head.method is came.method and head.query is came.query
        start = line.start if same else requests.render_start(head)
        more = requests.appended(came.headers, head.headers)
        if more is None or requests.has_host(more):
            return start, requests.render_request(head.headers, block)
        return start, sent + requests.render_more(more)

    # ---- on the way out

    def respond_at_once(self, answer: ResponseHead) -> ResponseHead | None:
        """Run response filters and plugins in reverse order over a head, and return what they made of it.

        None when an async hook has to be awaited: `respond` goes on from there; or when the exchange was answered otherwise.
        """
        return self._next_responses(self.filtered(answer))

    def filtered(self, answer: ResponseHead) -> ResponseHead:
        """Run response filters over a head, once."""
        if self._filters:
            came = answer
            for each, head in reversed(self._filters):
                answer = each.on_response(head, answer)
            self._filters = None
            if answer is not came:
                self.added_to_response = None
        return answer

    def _next_responses(self, answer: ResponseHead) -> ResponseHead | None:
        seen = self.seen
        while seen:
            slot, head = seen.pop()
            try:
                result = slot.response(head, answer)
            except PluginUnavailable as unavailable:
                if self.sampled:
                    self.note(slot, "on_response")
                self.response_unavailable(unavailable.plugin)
                return None
            if result is not answer:
                if isinstance(result, ResponseHead):
                    answer = result
                    so_far, added = self.added_to_response, slot.added
                    self.added_to_response = so_far + added if added is not None and so_far is not None else None
                elif isinstance(result, Reply):
                    answer = self.replace(result)
                else:
                    self._answer = answer
                    self._waiting = (slot, head, result)
                    return None
            if self.sampled:
                self.note(slot, "on_response")
        return answer

    def takes_refusal(self) -> bool:
        """Return whether plugins are asked about the gateway's own answer: some saw the request, and none was asked about a response.

        The rule's filters are not: they are about what upstreams say.
        """
        phases = self.phases
        if not self.seen or self._answer is not None or (phases is not None and phases.outlet is not None):
            return False
        self._filters = None
        return True

    def replace(self, reply: Reply) -> ResponseHead:
        """Put a reply in the place of the whole response. Return its head, which goes on."""
        self.replacement = reply
        self.added_to_response = None
        return ResponseHead(reply.status, reply.headers)

    def respond(self, then: Then) -> None:
        """Await the async hook that `respond_at_once` stopped at, and those that follow; call `then` with the last one's head."""
        self._exchange.proxy.spawn(self._await_responses(then), self._exchange.context)

    async def _await_responses(self, then: Then) -> None:
        exchange = self._exchange
        while self._waiting is not None:
            slot, head, waiting = self._waiting
            self._waiting = None
            assert self._answer is not None
            try:
                later = await slot.response_later(head, self._answer, waiting)
            except PluginUnavailable as unavailable:
                if self.sampled:
                    self.note(slot, "on_response")
                if not exchange.over:
                    self.response_unavailable(unavailable.plugin)
                return
            if exchange.over:
                return
            if self.sampled:
                self.note(slot, "on_response")
            if isinstance(later, Reply):
                later = self.replace(later)
            elif later is not self._answer:
                self.added_to_response = None
            answer = self._next_responses(later)
            if answer is not None:
                then(answer)
                return

    def note(self, slot: Slot, hook: str) -> None:
        """Keep the time of a hook that has just ended, well or not. Of a slot that called nothing, nothing."""
        if slot.started_at < self._exchange.started_at:
            return
        if self.times is None:
            self.times = []
        error = slot.fault if slot.failed_at == slot.started_at else ""
        self.times.append(
            Hook(slot.instance.id, hook, slot.started_at, slot.took_s, slot.version, slot.is_candidate, error)
        )

    def response_unavailable(self, plugin: str) -> None:
        """A plugin cannot do its part of the response, and fails closed."""
        self.seen.clear()
        self._exchange.call_off()
        self.unavailable(plugin)

    def unavailable(self, plugin: str) -> None:
        """A plugin cannot do its part, and fails closed."""
        log.warning("request refused: plugin %s cannot do its part, and fails closed", plugin)
        self._exchange.refuse("PluginUnavailable")
