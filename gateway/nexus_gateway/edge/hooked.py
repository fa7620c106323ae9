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
from nexus_gateway.edge.heads import UNREAD, ArrivedHead
from nexus_gateway.edge.plugins.slots import PluginUnavailable, Slot
from nexus_gateway.filters.place import HeadFilter, Place
from nexus_gateway.telemetry.finished import Hook

if TYPE_CHECKING:
    from nexus_gateway.edge.ending import Ending

log = logging.getLogger("nexus.gateway")

Then = Callable[[ResponseHead], None]


class Hooked:
    """head: the request as the last hook or filter left it. times: of the hooks, for a request that head sampling records.

    answers: whether anything is done to the response. added_to_response: header lines, if that is all hooks did; None when they did more.
    """

    __slots__ = (
        "_added_to_request", "_answer", "_came", "_exchange", "_filters", "_port", "_sampled", "_seen", "_waiting",
        "added_to_response", "answers", "head", "times",
    )  # fmt: skip

    def __init__(self, exchange: Ending) -> None:
        self._exchange = exchange
        self._filters: list[tuple[HeadFilter, RequestHead]] | None = None
        self._answer: ResponseHead | None = None
        self._waiting: tuple[Slot, RequestHead, Awaitable[object]] | None = None
        self.times: list[Hook] | None = None
        extra = exchange.extra
        # The flags' last digit: `contexts.is_sampled`, without the call.
        self._sampled = exchange.context[67] == 49 or (extra is not None and extra.debug)
        self._seen: list[tuple[Slot, RequestHead]] = []
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
        self.head: RequestHead = ArrivedHead(
            line.method, line.path, line.query, host, UNREAD, address, entry.route.id, block, own, exchange.request_id
        )
        self._came = self.head

    @property
    def changed(self) -> bool:
        """Whether the request that goes on differs from the one that came."""
        return self.head is not self._came

    # ---- on the way in

    def plugins(self, slots: tuple[Slot, ...], index: int = 0) -> bool:
        """Run the rule's plugins from one on, then its filters. Return whether the exchange goes on to its backend now."""
        exchange = self._exchange
        for slot in slots[index:] if index else slots:
            index += 1
            head = self.head
            if slot.asks:
                try:
                    result = slot.request(head)
                except PluginUnavailable as unavailable:
                    self._unavailable(unavailable)
                    return False
                if result is not head:
                    if isinstance(result, RequestHead):
                        self.head = head = result
                        so_far, added = self._added_to_request, slot.added
                        self._added_to_request = so_far + added if added is not None and so_far is not None else None
                    elif isinstance(result, Reply):
                        exchange.reply(result)
                        return False
                    else:
                        exchange.proxy.spawn(self._await_plugin(index, slot, result))
                        return False
                if self._sampled:
                    self._note(slot, "on_request")
            if slot.answers:
                self._seen.append((slot, head))
                self.answers = True
        filters = exchange.plan.filters
        return not filters or self.filter(filters)

    async def _await_plugin(self, index: int, slot: Slot, waiting: Awaitable[object]) -> None:
        exchange = self._exchange
        try:
            result = await slot.request_later(self.head, waiting)
        except PluginUnavailable as unavailable:
            if not exchange.over:
                self._unavailable(unavailable)
            return
        if self._sampled:
            self._note(slot, "on_request")
        if exchange.over:
            return
        if isinstance(result, Reply):
            exchange.reply(result)
            return
        if result is not self.head:
            self.head = result
            self._added_to_request = None
        if slot.answers:
            self._seen.append((slot, result))
            self.answers = True
        if self.plugins(exchange.plan.plugins, index):
            exchange.choose_backend()

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
        if self._filters:
            came = answer
            for each, head in reversed(self._filters):
                answer = each.on_response(head, answer)
            self._filters = None
            if answer is not came:
                self.added_to_response = None
        return self._next_responses(answer)

    def _next_responses(self, answer: ResponseHead) -> ResponseHead | None:
        seen = self._seen
        while seen:
            slot, head = seen.pop()
            try:
                result = slot.response(head, answer)
            except PluginUnavailable as unavailable:
                self._response_unavailable(unavailable)
                return None
            if result is not answer:
                if type(result) is not ResponseHead:
                    self._answer = answer
                    self._waiting = (slot, head, result)  # type: ignore[assignment]  # what is left is awaitable
                    return None
                answer = result
                so_far, added = self.added_to_response, slot.added
                self.added_to_response = so_far + added if added is not None and so_far is not None else None
            if self._sampled:
                self._note(slot, "on_response")
        return answer

    def respond(self, then: Then) -> None:
        """Await the async hook that `respond_at_once` stopped at, and those that follow; call `then` with the last one's head."""
        self._exchange.proxy.spawn(self._await_responses(then))

    async def _await_responses(self, then: Then) -> None:
        exchange = self._exchange
        while self._waiting is not None:
            slot, head, waiting = self._waiting
            self._waiting = None
            assert self._answer is not None
            try:
                later = await slot.response_later(head, self._answer, waiting)
            except PluginUnavailable as unavailable:
                if not exchange.over:
                    self._response_unavailable(unavailable)
                return
            if exchange.over:
                return
            if self._sampled:
                self._note(slot, "on_response")
            if later is not self._answer:
                self.added_to_response = None
            answer = self._next_responses(later)
            if answer is not None:
                then(answer)
                return

    def _note(self, slot: Slot, hook: str) -> None:
        if self.times is None:
            self.times = []
        self.times.append(Hook(slot.instance.id, hook, slot.started_at, slot.took_s))

    def _response_unavailable(self, unavailable: PluginUnavailable) -> None:
        self._seen.clear()
        self._exchange.call_off()
        self._unavailable(unavailable)

    def _unavailable(self, unavailable: PluginUnavailable) -> None:
        log.warning("request refused: plugin %s is not running and fails closed", unavailable.plugin)
        self._exchange.refuse("PluginUnavailable")
