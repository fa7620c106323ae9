"""The calls into one plugin instance: timed, bounded, isolated.

The two hooks that see heads have a way of their own, since nearly all plugins have them and pay for each step of it. All other hooks are
called by `ask`, which returns what a plain hook returned, or a `Later` to await.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead
from nexus_core.hooks.specs import ASKING
from nexus_core.snapshot import PluginInstance, PluginReport
from nexus_hosting import bounds
from nexus_hosting.calls import Held, driven
from nexus_hosting.ending import in_time
from nexus_hosting.permits import granted_to
from nexus_hosting.running import Running
from nexus_hosting.watching import watch
from nexus_sdk.plugin import Plugin

from nexus_gateway.edge.heads import latest
from nexus_gateway.edge.measurements import Spread
from nexus_gateway.edge.plugins.checking import KnownPairs, check_nothing, check_request, check_response
from nexus_gateway.edge.plugins.meters import Meter
from nexus_gateway.edge.plugins.permits import Permits
from nexus_gateway.edge.plugins.trials import Trial
from nexus_gateway.edge.requests import FRAMING, KEPT_OUT

if TYPE_CHECKING:
    from nexus_gateway.edge.plugins.chains import Chain

log = logging.getLogger("nexus.gateway.plugins")

T = TypeVar("T")

_Asked = RequestHead | Reply | Awaitable[object]
_Answered = ResponseHead | Reply | Awaitable[object]

(REQUEST_BODY, REQUEST_STREAM, ROUTE, ENDPOINT, RESPONSE_BODY, RESPONSE_STREAM, DONE, MESSAGES) = (
    1 << bit for bit in range(8)
)
_MORE = {
    "on_request_body": REQUEST_BODY,
    "on_request_stream": REQUEST_STREAM,
    "on_route": ROUTE,
    "on_endpoint": ENDPOINT,
    "on_response_body": RESPONSE_BODY,
    "on_response_stream": RESPONSE_STREAM,
    "on_done": DONE,
    "on_client_message": MESSAGES,
    "on_server_message": MESSAGES,
}
"""Hooks beyond those that see heads, as bits of `Slot.more`."""
BODIES_IN = REQUEST_BODY | REQUEST_STREAM
BODIES_OUT = RESPONSE_BODY | RESPONSE_STREAM
MAX_NOTES = 1000
"""Coroutines of `on_done` that one plugin may have running."""


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


class HookFailed(Exception):
    """A call failed, and is counted and logged as that. What follows is for the failure policy, which whoever called knows."""


def _no_hook(head: RequestHead) -> object:
    return head


class Known:
    """Headers that the plugins of one gateway add to single attempts, and to responses."""

    __slots__ = ("attempts", "responses")

    def __init__(self) -> None:
        self.attempts = KnownPairs(KEPT_OUT | {"host"})
        self.responses = KnownPairs(FRAMING)


class Later(Generic[T]):
    """What a hook returned that is to be awaited. Await `result` once."""

    __slots__ = ("_check", "_hook", "_slot", "_started_at", "_took_s", "_waiting")

    def __init__(
        self,
        slot: Slot,
        hook: str,
        check: Callable[[object], T],
        waiting: Awaitable[object],
        started_at: float,
        took_s: float,
    ) -> None:
        """started_at, took_s: of the call that returned it."""
        self._slot = slot
        self._hook = hook
        self._check = check
        self._waiting = waiting
        self._started_at = started_at
        self._took_s = took_s

    async def result(self) -> T:
        """Return the checked result, within the plugin's time. Raises `HookFailed`."""
        return await self._slot.wait(self._hook, self._check, self._waiting, self._started_at, self._took_s)

    def drop(self) -> None:
        """Let it go; it is not run at all."""
        close = getattr(self._waiting, "close", None) or getattr(self._waiting, "cancel", None)
        if close is not None:
            close()


class Slot:
    """Where a rule finds its plugin: the running instance, or none with what that means for requests.

    instance: as the Snapshot wants it. report: what runs instead, if anything. asks, answers: whether its request and
    response hooks do anything. more: what else it does, bits of `_MORE`; does: the same, also while it is not open. permits: None where
    it may see and change all headers.
    Of the last plain hook that ended, for whoever called it: started_at, took_s, monotonic seconds;
    only_added: whether all it did to the request was to add headers. added: the header lines that it added to the response, when that is
    all it did; None when it changed something else.

    quick: whether `hook`, a plain function on the request's head, is all there is to it; took: keeps how long that took. chains: those
    that it is in.

    meter: counts its calls. open: whether hooks are called; else the failure policy decides, as if there were no plugin. trial: the
    candidate beside it, None without one; whoever meets the slot first in an exchange takes its `turn`. notes: coroutines of `on_done`
    that run. version: of the release that runs. is_candidate: whether it is tried beside another slot. failed_at, fault: when the last
    call that failed began, and the type of its error.
    """

    __slots__ = (
        "_attempt_lines", "_hooks", "_observe", "_on_request", "_on_response", "_open", "_response_lines", "_spreads",
        "_took_response", "_trial", "added", "answers", "asks", "chains", "does", "failed_at", "fault", "hook", "instance",
        "is_candidate", "meter", "more", "notes", "only_added", "permits", "plugin", "quick", "report", "running", "started_at",
        "took", "took_s", "version",
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
        self.chains: WeakSet[Chain] = WeakSet()
        self._trial: Trial | None = None
        self.is_candidate = False
        self.only_added = False
        self.version = running.instance.release.version if running is not None else ""
        self.failed_at = -1.0
        self.fault = ""
        self.instance = instance
        self.running = running
        self.plugin = running.plugin if running is not None else None
        self.report = report
        self.started_at = 0.0
        self.took_s = 0.0
        self.notes = 0
        self._observe = observe
        self.added: bytes | None = b""
        known = known or Known()
        self._response_lines = known.responses.added
        self._attempt_lines = known.attempts.added
        permits = Permits(granted_to(running.instance, instance) if running is not None else instance.granted)
        self.permits = permits if permits.limits else None
        self._hooks = self._bind()
        self.does = 0
        for name, bit in _MORE.items():
            if name in self._hooks:
                self.does |= bit
        self._spreads: dict[str, Spread] = {}
        self.took = self._spread("on_request").took
        self._took_response = self._spread("on_response").took
        self._on_request: Callable[[RequestHead], _Asked] | None = None
        self.hook: Callable[[RequestHead], object] = _no_hook
        self.quick = False
        self._on_response: Callable[[RequestHead, ResponseHead], _Answered] | None = None
        self.open = self.meter.open

    def _bind(self) -> dict[str, Callable[..., Any]]:
        """Return the hooks that the plugin's class overrides. What the base class does, nothing, is not called."""
        kind = type(self.plugin)
        hooks: dict[str, Callable[..., Any]] = {}
        for name in ("on_request", "on_response", *_MORE, *ASKING):
            own = getattr(kind, name, None)
            if self.plugin is not None and own is not None and own is not getattr(Plugin, name):
                hooks[name] = getattr(self.plugin, name)
        permits = self.permits
        if permits is None:
            return hooks
        return {name: permits.guard(name, hook) for name, hook in hooks.items()}

    @property
    def open(self) -> bool:
        """Whether hooks are called."""
        return self._open

    @open.setter  # noqa: A003  # an attribute of slots, no function
    def open(self, value: bool) -> None:
        self._open = value
        called = value and self.plugin is not None
        hooks = self._hooks if called else {}
        self._on_request = hooks.get("on_request")
        self._on_response = hooks.get("on_response")
        # A plugin that is not called may have to refuse requests.
        self.asks = not called or "on_request" in hooks
        self.answers = "on_response" in hooks
        self.more = self.does if called else 0
        self._settle()

    @property
    def trial(self) -> Trial | None:
        """The candidate beside it."""
        return self._trial

    @trial.setter
    def trial(self, value: Trial | None) -> None:
        self._trial = value
        self._settle()

    def _settle(self) -> None:
        """Most plugins look at the request's head and nothing else, in a plain function."""
        hook = self._on_request
        self.quick = (
            hook is not None
            and self._trial is None
            and not self.answers
            and not self.more
            and not inspect.iscoroutinefunction(hook)
        )
        self.hook = hook if hook is not None else _no_hook
        for chain in self.chains:
            chain.settle()

    @property
    def is_closed(self) -> bool:
        """Whether a failure means that the request fails, too."""
        return self.instance.failure_policy == "closed"

    # ---- heads

    def request(self, head: RequestHead, *, is_arrived: bool = False) -> RequestHead | Reply | Awaitable[object] | None:
        """Return what the plugin makes of the request, or, from an async hook, what `request_later` awaits.

        is_arrived: whether all that plugins did to it was to add headers. None when it failed and the request goes on without it: none
        of its hooks has a part in it any more. Raises `PluginUnavailable` when it fails closed.
        """
        hook = self._on_request
        if hook is None:
            return self._without(head)
        latest.head = head if is_arrived else None
        watch.since = started = monotonic()
        watch.who = self
        try:
            result = hook(head)
        except bounds.THROWN as error:
            latest.head = None
            self._failed("on_request", started, error)
            self._without(head)
            return None
        return self.judge_request(head, result, started)

    def judge_request(
        self, head: RequestHead, result: object, started: float
    ) -> RequestHead | Reply | Awaitable[object] | None:
        """Return what `on_request` returned, as `request` does. It is still on the watch. started: monotonic."""
        only_added = self._take_made(result)
        try:
            if result is not head and not only_added:
                if not isinstance(result, RequestHead | Reply) and inspect.isawaitable(result):
                    watch.who = None
                    return result
                result = check_request(result, head)
            watch.who = None  # not before: what it returned may have code of its own
        except bounds.THROWN as error:
            self._failed("on_request", started, error)
            self._without(head)
            return None
        self.started_at = started
        self.took_s = took_s = monotonic() - started
        self.took(took_s)
        return result  # type: ignore[return-value]  # checked, or what `with_header` made

    def _take_made(self, result: object) -> bool:
        """Return whether a result is what `with_header` made last of the head; what is made from now on is no such thing."""
        made, latest.head = latest.head, None
        self.only_added = made is not None and result is made
        return self.only_added

    async def request_later(
        self, head: RequestHead, waiting: Awaitable[object], *, is_arrived: bool = False
    ) -> RequestHead | Reply | None:
        """Return what an async hook makes of the request, within its time; None as from `request`. Raises `PluginUnavailable`.

        is_arrived: as of `request`.
        """

        def check(result: object) -> RequestHead | Reply:
            return result if self._take_made(result) else check_request(result, head)  # type: ignore[return-value]  # a head, then

        # Until it waits, nobody else is given a head.
        latest.head = head if is_arrived else None
        try:
            return await self.wait("on_request", check, waiting, monotonic(), 0.0)
        except HookFailed:
            latest.head = None
            self._without(head)
            return None

    def response(self, request: RequestHead, head: ResponseHead) -> ResponseHead | Reply | Awaitable[object]:
        """Return what the plugin makes of the response, or, from an async hook, what `response_later` awaits.

        Raises `PluginUnavailable` when it fails closed.
        """
        hook = self._on_response
        if hook is None:
            return head if self._open else self._without(head)
        self.added = b""
        watch.since = started = monotonic()
        watch.who = self
        try:
            result = hook(request, head)
            if result is not head:
                self.added = None
                if type(result) is ResponseHead:
                    before, after = head.headers, result.headers
                    count = len(before)
                    if type(after) is tuple and after[:count] == before and result.status is head.status:
                        self.added = self._response_lines(after[count:])
                    else:
                        result = check_response(result, head)
                elif not isinstance(result, Reply) and inspect.isawaitable(result):
                    watch.who = None
                    return result
                else:
                    result = check_response(result, head)
            watch.who = None  # not before: what it returned may have code of its own
        except bounds.THROWN as error:
            self._failed("on_response", started, error)
            return self._without(head)
        self.started_at = started
        self.took_s = took_s = monotonic() - started
        self._took_response(took_s)
        return result

    async def response_later(
        self, request: RequestHead, head: ResponseHead, waiting: Awaitable[object]
    ) -> ResponseHead | Reply:
        """Return what an async hook makes of the response, within its time. Raises `PluginUnavailable`."""
        try:
            return await self.wait(
                "on_response", lambda result: check_response(result, head), waiting, monotonic(), 0.0
            )
        except HookFailed:
            return self._without(head)

    # ---- all other hooks

    def wants(self, name: str, check: Callable[[object], bool], *given: object) -> bool:
        """Return whether a hook is wanted that is asked for with `wants_…`. Raises `HookFailed`."""
        if name not in self._hooks:
            return True
        self._check_open(name)
        return self.run(name, self._hooks[name], check, *given)

    def _check_open(self, name: str) -> None:
        """Raise `HookFailed` while the plugin is not called: it was disabled while it had a part in a request."""
        if not self._open:
            raise HookFailed(name)

    def plain(self, name: str, check: Callable[[object], T], *given: object) -> T:
        """Return the checked result of a hook that is never awaited. Raises `HookFailed`."""
        self._check_open(name)
        return self.run(name, self._hooks[name], check, *given)

    def run(self, name: str, call: Callable[..., object], check: Callable[[object], T], *given: object) -> T:
        """Return the checked result of a call into the plugin. name: of the hook that it counts for. Raises `HookFailed`."""
        result = self._ask(name, call, check, False, *given)
        assert not isinstance(result, Later)
        return result

    def ask(self, name: str, check: Callable[[object], T], *given: object) -> T | Later[T]:
        """Return the checked result of a hook, or what is to be awaited for it. Raises `HookFailed`."""
        self._check_open(name)
        return self._ask(name, self._hooks[name], check, True, *given)

    async def asked(self, name: str, check: Callable[[object], T], *given: object) -> T:
        """Return the checked result of a hook, awaited if need be. Raises `HookFailed`."""
        result = self.ask(name, check, *given)
        return await result.result() if isinstance(result, Later) else result

    def lines(self, headers: Headers) -> bytes:
        """Return the lines of headers for one attempt. Raises TypeError or ValueError for what cannot be sent."""
        if not isinstance(headers, tuple):
            raise TypeError(f"on_endpoint returned {type(headers).__name__}, not a tuple of pairs")
        return self._attempt_lines(headers)

    def _ask(
        self, name: str, call: Callable[..., object], check: Callable[[object], T], awaits: bool, *given: object
    ) -> T | Later[T]:
        watch.since = started = monotonic()
        watch.who = self
        try:
            result = call(*given)
            if awaits and not isinstance(result, bytes | tuple | Reply) and inspect.isawaitable(result):
                watch.who = None
                return Later(self, name, check, result, started, monotonic() - started)
            checked = check(result)
            watch.who = None
        except bounds.THROWN as error:
            self._failed(name, started, error)
            raise HookFailed(name) from error
        self._passed(name, started, monotonic() - started)
        return checked

    async def wait(
        self, name: str, check: Callable[[object], T], waiting: Awaitable[object], started: float, held_s: float
    ) -> T:
        """Return the checked result of what an async hook returned, within its time. held_s: that the call took itself.

        Raises `HookFailed`.
        """
        held = Held()
        held.seconds = held_s
        try:
            checked = check(await in_time(driven(waiting, self, held), self.instance.timeout_s))
        except bounds.THROWN as error:
            if bounds.is_cancelled(error):
                raise  # no failure: the gateway ends
            self._failed(name, started, error, held.seconds)
            raise HookFailed(name) from error
        self._passed(name, started, held.seconds)
        return checked

    # ---- what becomes of calls

    def _spread(self, hook: str) -> Spread:
        found = self._spreads.get(hook)
        if found is None:
            found = self._spreads[hook] = self._observe.spread(self.instance.id, hook)
        return found

    def broke(self, started: float, error: BaseException) -> None:
        """Count a call of `hook` that failed."""
        self._failed("on_request", started, error)

    def _passed(self, hook: str, started: float, cpu_s: float) -> None:
        self.started_at = started
        self.took_s = took_s = monotonic() - started
        self._count(hook, took_s, cpu_s)

    def _count(self, hook: str, took_s: float, cpu_s: float) -> None:
        self._spread(hook).observe(took_s)
        self.meter.waited_s += took_s - cpu_s

    def _failed(self, hook: str, started: float, error: BaseException, cpu_s: float | None = None) -> None:
        """Tell of a hook that failed. cpu_s: None for all of its time."""
        text = self.told(error)  # still on the watch: what it says is its own code
        watch.who = None
        now = monotonic()
        self.started_at = self.failed_at = started
        self.fault = type(error).__name__
        self.took_s = took_s = now - started
        self._count(hook, took_s, took_s if cpu_s is None else cpu_s)
        self._fail(hook, now, text)

    def told(self, error: BaseException) -> str:
        """Return what an error of the plugin says, without the plugin's secrets."""
        return self.running.told(error) if self.running is not None else bounds.told(error)

    def _fail(self, hook: str, now: float, text: str) -> None:
        log.warning("plugin %s failed in %s: %s", self.instance.id, hook, text)
        self._observe.failed(self.instance.id, hook)
        self.meter.failed(now, hook, text)

    def too_large(self, hook: str) -> None:
        """Count a body that is larger than what is buffered for the plugin."""
        self._count(hook, 0.0, 0.0)
        limit = self.instance.budgets.body_bytes
        self._fail(hook, monotonic(), f"the body is larger than spec.budgets.bodyBytes, which is {limit}")

    def dropped(self, hook: str) -> None:
        """Count work that the plugin would have begun, while too much of it runs. It says nothing of the plugin's health."""
        self._observe.failed(self.instance.id, hook)

    def note(self, request: RequestHead, done: object) -> Later[None] | None:
        """Call `on_done`; return what is left to await of it."""
        try:
            return self.ask("on_done", lambda result: check_nothing(result, "on_done"), request, done)
        except HookFailed:
            return None

    def _without(self, head: T) -> T:
        if self.instance.failure_policy == "closed":
            raise PluginUnavailable(self.instance.id)
        return head
