"""What plugins and filters do to one exchange: its head as a value, changed on the way in, and the response's on the way out.

Only exchanges whose rule has plugins or filters, or whose backend has, own a `Hooked`. Plain hooks run at once; an async
one parks the exchange and takes it up again when it is done.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from time import monotonic
from typing import TYPE_CHECKING, Any

from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_hosting.bounds import THROWN
from nexus_hosting.watching import watch

from nexus_gateway.edge import requests
from nexus_gateway.edge.heads import UNREAD, ArrivedHead, pairs_of
from nexus_gateway.edge.phases import Phases
from nexus_gateway.edge.plugins.checking import check_request
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
        "_added_to_request", "_answer", "_came", "_exchange", "_filters", "_port", "_waiting",
        "added_to_response", "answers", "head", "phases", "replacement", "sampled", "seen", "times",
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
        # Header lines that plugins added to the request, and to its response; None once more than that was changed.
        self._added_to_request: bytes | None = b""
        self.added_to_response: bytes | None = b""
        line, block, entry = exchange.line, exchange.block, exchange.entry
        peer, aside = exchange.stream.context, block.aside
        assert entry is not None
        if line.authority:
            authority, host, self._port = requests.authority_of(line, block)
        else:
            authority, host, self._port = block.authority, block.host, block.port
        forwarding = exchange.proxy.forwarding
        own = forwarding.lines(peer, authority, aside)
        address = peer.address if not peer.trusted else forwarding.client_ip(peer, aside)
        read, rid = block.read, exchange.request_id
        head: RequestHead
        if read is not None:
            # Somebody has read this block before: all of it as text is cheaper now than to find out what is asked for.
            headers = (*pairs_of(own), *read, ("x-request-id", rid.decode("latin-1")))
            head = RequestHead(line.method, line.path, line.query, host, headers, address, entry.route.id, {})
        else:
            head = ArrivedHead(
                line.method, line.path, line.query, host, UNREAD, address, entry.route.id, {}, block, own, rid
            )
        self.head = self._came = head

    @property
    def changed(self) -> bool:
        """Whether the request that goes on differs from the one that came."""
        return self.head is not self._came

    # ---- on the way in

    def plugins(self, slots: tuple[Slot, ...], index: int = 0) -> bool:
        """Run the rule's plugins from one on, then its filters. Return whether the exchange goes on to its backend now."""
        if not index:
            index = self._quickly(slots)
            if index == len(slots):
                return self._passed()
            if index < 0:
                return False
        exchange = self._exchange
        for slot in slots[index:] if index else slots:
            index += 1
            if slot.trial is not None:
                slot = self._phases().turn(slot)  # the candidate in its place
            head = self.head
            if slot.asks:
                try:
                    result = slot.request(head)
                except PluginUnavailable as unavailable:
                    if self.sampled:
                        self.note(slot, "on_request")
                    if slot.more:
                        self._phases().note_end(slot, head)
                    self.unavailable(unavailable.plugin)
                    return False
                if result is not head:
                    if isinstance(result, RequestHead):
                        self.head = head = result
                        so_far, added = self._added_to_request, slot.added
                        self._added_to_request = so_far + added if added is not None and so_far is not None else None
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
                        exchange.proxy.spawn(self._await_plugin(index, slot, result), exchange.context)
                        return False
                if self.sampled:
                    self.note(slot, "on_request")
            if slot.answers:
                self.seen.append((slot, head))
                self.answers = True
            if slot.more:
                self._join(slot, head)
        return self._passed()

    def _quickly(self, slots: tuple[Slot, ...]) -> int:
        """Run the first plugins, as long as all that they do is to look at the request's head at once. Return how many that were; -1
        when the exchange goes on otherwise, or was answered.

        What nearly all plugins are, in one loop: the steps of `Slot.request` without its calls. One plugin's end is the next one's start.
        """
        head = self.head
        added: bytes | None = b""
        index = 0
        ended = monotonic()
        for slot in slots:
            if not slot.quick:
                break
            index += 1
            watch.since = started = ended
            watch.who = slot
            try:
                result = slot.hook(head)
                if result is not head:
                    if type(result) is RequestHead:
                        before, after = head.headers, result.headers
                        count = len(before)
                        if (
                            type(after) is tuple
                            and after[:count] == before  # by identity, in C
                            and result.path is head.path
                            and result.query is head.query
                            and result.method is head.method
                            and result.host is head.host
                            and result.client_ip is head.client_ip
                            and result.notes is head.notes
                        ):
                            line = slot.known.get(after[count]) if len(after) == count + 1 else None
                            if added is not None:
                                added += slot.learn(after[count:]) if line is None else line
                        else:
                            result = check_request(result, head)
                            added = None
                    elif isinstance(result, Reply) or not isawaitable(result):
                        result = check_request(result, head)
                        added = None
                watch.who = None  # not before: what it returned may have code of its own
            except THROWN as error:
                slot.broke(started, error)
                if self.sampled:
                    self.note(slot, "on_request")
                if slot.is_closed:
                    self._keep(head, added)
                    self.unavailable(slot.instance.id)
                    return -1
                ended = monotonic()
                continue
            if result is not head:
                if type(result) is not RequestHead:
                    self._keep(head, added)
                    return self._turn_aside(slot, result, index, started)
                head = result
            ended = monotonic()
            took_s = ended - started
            spread = slot.requests
            spread.buckets[bisect_left(spread.bounds, took_s)] += 1
            spread.sum += took_s
            if self.sampled:
                slot.started_at, slot.took_s = started, took_s
                self.note(slot, "on_request")
        self.head = head
        self._added_to_request = added
        return index

    def _keep(self, head: RequestHead, added: bytes | None) -> None:
        self.head = head
        self._added_to_request = added

    def _turn_aside(self, slot: Slot, result: Any, index: int, started: float) -> int:
        """A plain function returned a reply, or what is to be awaited after all."""
        exchange = self._exchange
        if not isinstance(result, Reply):
            exchange.proxy.spawn(self._await_plugin(index, slot, result), exchange.context)
            return -1
        slot.passed(started)
        if self.sampled:
            self.note(slot, "on_request")
        exchange.reply(result)
        return -1

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
            result = await slot.request_later(head, waiting)
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
                self.change(result)
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
        self._added_to_request = None

    def filter(self, filters: tuple[HeadFilter, ...]) -> bool:
        """Run head filters over the request. Return whether it goes on."""
        if not filters:
            return True
        exchange = self._exchange
        entry = exchange.entry
        assert entry is not None
        forwarding, peer, aside = exchange.proxy.forwarding, exchange.stream.context, exchange.block.aside
        scheme = forwarding.scheme(peer, aside)
        place = Place(entry.match.path, scheme, forwarding.port(peer, scheme, self._port))
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
        if head is not self.head:
            self.head = head
            self._added_to_request = None
        return True

    def render(self, own: bytes) -> tuple[bytes, bytes]:
        """Return the request line and header lines for upstream. own: the gateway's lines.

        What was only added to (the usual change) is the client's bytes and what was added; anything else is written anew.
        """
        exchange = self._exchange
        came, head, line, block = self._came, self.head, exchange.line, exchange.block
        added = self._added_to_request
        if added is not None:
            return line.start, b"".join((own, block.forward, b"x-request-id: ", exchange.request_id, b"\r\n", added))
        same = head.path is came.path and head.method is came.method and head.query is came.query
        start = line.start if same else requests.render_start(head)
        more = requests.appended(came.headers, head.headers)
        if more is None:
            return start, requests.render_request(head.headers, block)
        rid = exchange.request_id
        return start, b"".join((own, block.forward, b"x-request-id: ", rid, b"\r\n", requests.render_more(more)))

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
        log.warning("request refused: plugin %s is not running and fails closed", plugin)
        self._exchange.refuse("PluginUnavailable")
