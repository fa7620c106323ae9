"""The calls into one plugin instance: timed, bounded, isolated."""

from __future__ import annotations

import asyncio
import inspect
import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.snapshot import PluginInstance, PluginReport
from nexus_hosting import bounds
from nexus_hosting.running import Running
from nexus_sdk.plugin import Plugin

from nexus_gateway.edge.measurements import Spread
from nexus_gateway.edge.plugins.checking import KnownPairs, check_request, check_response
from nexus_gateway.edge.plugins.meters import Meter
from nexus_gateway.edge.plugins.trials import Trial
from nexus_gateway.edge.requests import FRAMING, KEPT_OUT

log = logging.getLogger("nexus.gateway.plugins")

_Asked = RequestHead | Reply | Awaitable[object]
_Answered = ResponseHead | Awaitable[object]


class HookObserver(Protocol):
    """Where hooks are measured; `edge.measurements.Measurements` is one."""

    def spread(self, plugin: str, hook: str) -> Spread:
        """Return the durations of one plugin's hook, the same object each time."""
        ...

    def failed(self, plugin: str, hook: str) -> None:
        """Count a call that failed."""
        ...


class PluginUnavailable(Exception):
    """The plugin cannot do its part and its failure policy is `closed`. plugin: its id."""

    def __init__(self, plugin: str) -> None:
        super().__init__(plugin)
        self.plugin = plugin


class Known:
    """Headers that the plugins of one gateway add to requests and to responses."""

    __slots__ = ("requests", "responses")

    def __init__(self) -> None:
        self.requests = KnownPairs(KEPT_OUT)
        self.responses = KnownPairs(FRAMING)


class Slot:
    """Where a rule finds its plugin: the running instance, or none with what that means for requests.

    instance: as the Snapshot wants it. report: what runs instead, if anything. asks, answers: whether its request and
    response hooks do anything. Of the last plain hook that ended, for whoever called it: started_at, took_s, monotonic seconds;
    added: the header lines that it added, when that is all it did; None when it changed something else.

    meter: counts its calls. open: whether hooks are called; else the failure policy decides, as if there were no plugin. trial: the
    candidate beside it, None without one; whoever meets the slot first in an exchange takes its `turn`.
    """

    __slots__ = (
        "_observe", "_on_request", "_on_response", "_request_lines", "_requests", "_response_lines", "_responses", "added",
        "answers", "asks", "instance", "meter", "open", "plugin", "report", "running", "started_at", "took_s", "trial",
    )  # fmt: skip

    def __init__(
        self,
        instance: PluginInstance,
        running: Running | None,
        report: PluginReport,
        observe: HookObserver,
        known: Known | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.meter = meter or Meter(instance.budgets)
        self.open = self.meter.open
        self.trial: Trial | None = None
        self.instance = instance
        self.running = running
        self.plugin = running.plugin if running is not None else None
        self.report = report
        self.started_at = 0.0
        self.took_s = 0.0
        self._observe = observe
        self.added: bytes | None = b""
        known = known or Known()
        self._request_lines = known.requests.added
        self._response_lines = known.responses.added
        self._on_request: Callable[[RequestHead], _Asked] | None = getattr(self.plugin, "on_request", None)
        self._on_response: Callable[[RequestHead, ResponseHead], _Answered] | None = getattr(
            self.plugin, "on_response", None
        )
        self._requests = observe.spread(instance.id, "on_request")
        self._responses = observe.spread(instance.id, "on_response")
        # What the base class does, nothing, is not called. A plugin that does not run may have to refuse requests.
        kind = type(self.plugin)
        self.asks = self.plugin is None or getattr(kind, "on_request", None) is not Plugin.on_request
        self.answers = self.plugin is not None and getattr(kind, "on_response", None) is not Plugin.on_response

    def request(self, head: RequestHead) -> RequestHead | Reply | Awaitable[object]:
        """Return what the plugin makes of the request, or, from an async hook, what `request_later` awaits.

        Raises `PluginUnavailable` when it fails closed.
        """
        hook = self._on_request
        if hook is None:
            return self._without(head)
        self.added = b""
        started = monotonic()
        try:
            result = hook(head)
            if result is not head:
                self.added = None
                if type(result) is RequestHead:
                    before, after = head.headers, result.headers
                    count = len(before)
                    if (
                        type(after) is tuple
                        and after[:count] == before  # by identity, in C
                        and result.path is head.path
                        and result.query is head.query
                        and result.method is head.method
                    ):
                        # The usual change: headers were added.
                        self.added = self._request_lines(after[count:])
                    else:
                        check_request(result, head)
                elif not isinstance(result, Reply) and inspect.isawaitable(result):
                    return result
                else:
                    check_request(result, head)
        except bounds.THROWN as error:
            self._failed("on_request", started, error)
            return self._without(head)
        self.started_at = started
        self.took_s = took_s = monotonic() - started
        spread = self._requests
        spread.buckets[bisect_left(spread.bounds, took_s)] += 1  # `observe`, without the call
        spread.sum += took_s
        return result

    async def request_later(self, head: RequestHead, waiting: Awaitable[object]) -> RequestHead | Reply:
        """Return what an async hook makes of the request, within its time. Raises `PluginUnavailable`."""
        started = monotonic()
        try:
            async with asyncio.timeout(self.instance.timeout_s):
                checked = check_request(await waiting, head)
        except bounds.THROWN as error:
            self._failed("on_request", started, error)
            return self._without(head)
        self._passed(self._requests, started)
        return checked

    def response(self, request: RequestHead, head: ResponseHead) -> ResponseHead | Awaitable[object]:
        """Return what the plugin makes of the response, or, from an async hook, what `response_later` awaits.

        Raises `PluginUnavailable` when it fails closed.
        """
        hook = self._on_response
        if hook is None:
            return head
        self.added = b""
        started = monotonic()
        try:
            result = hook(request, head)
            if result is not head:
                self.added = None
                if type(result) is ResponseHead:
                    before, after = head.headers, result.headers
                    count = len(before)
                    if type(after) is tuple and after[:count] == before and result.status == head.status:
                        self.added = self._response_lines(after[count:])
                    else:
                        check_response(result, head)
                elif inspect.isawaitable(result):
                    return result
                else:
                    check_response(result, head)
        except bounds.THROWN as error:
            return self._response_failed(head, started, error)
        self.started_at = started
        self.took_s = took_s = monotonic() - started
        spread = self._responses
        spread.buckets[bisect_left(spread.bounds, took_s)] += 1
        spread.sum += took_s
        return result

    async def response_later(
        self, request: RequestHead, head: ResponseHead, waiting: Awaitable[object]
    ) -> ResponseHead:
        """Return what an async hook makes of the response, within its time. Raises `PluginUnavailable`."""
        started = monotonic()
        try:
            async with asyncio.timeout(self.instance.timeout_s):
                checked = check_response(await waiting, head)
        except bounds.THROWN as error:
            return self._response_failed(head, started, error)
        self._passed(self._responses, started)
        return checked

    def _response_failed(self, head: ResponseHead, started: float, error: BaseException) -> ResponseHead:
        self._failed("on_response", started, error)
        if self.instance.failure_policy == "closed":
            raise PluginUnavailable(self.instance.id) from error
        return head

    def _passed(self, spread: Spread, started: float) -> None:
        self.started_at = started
        self.took_s = took_s = monotonic() - started
        spread.observe(took_s)

    def _failed(self, hook: str, started: float, error: BaseException) -> None:
        """Tell of a hook that failed. Raises the error when it is no failure: the client has left."""
        if bounds.is_cancelled(error):
            raise error
        (self._requests if hook == "on_request" else self._responses).observe(monotonic() - started)
        self._observe.failed(self.instance.id, hook)
        log.warning(
            "plugin %s failed in %s: %s: %s", self.instance.id, hook, type(error).__name__, error or "out of time"
        )

    def _without(self, head: RequestHead) -> RequestHead:
        if self.instance.failure_policy == "closed":
            raise PluginUnavailable(self.instance.id)
        return head
