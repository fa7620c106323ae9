"""Drives one plugin as a gateway, the services and the operator would, and says where it breaks the contract of `nexus_core.hooks`."""

from __future__ import annotations

import asyncio
import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nexus_core.hooks import (
    BodyStream,
    Close,
    Delivery,
    Done,
    Endpoint,
    Event,
    Headers,
    Manifest,
    Message,
    Operation,
    Plugin,
    Refusal,
    Reply,
    RequestHead,
    Resolved,
    ResponseHead,
    RouteChoice,
    Socket,
)
from nexus_core.hooks.specs import ASKING, BY_NAME

from nexus_sdk.testing import plugin_checks as checks
from nexus_sdk.testing.plugin_checks import Fault
from nexus_sdk.testing.plugin_context import FakeContext

if TYPE_CHECKING:
    from nexus_sdk.testing.plugin_package import Declared

T = TypeVar("T")


class PluginContractError(AssertionError):
    """The plugin broke the contract: which hook, what it did, what it has to do."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One call of a hook. seconds: wall-clock, awaiting included."""

    hook: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a client gets, and what the upstream got; None when it was not called."""

    status: int
    headers: Headers
    body: bytes
    request: RequestHead | None = None
    request_body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a response header, or None. name: lower-case."""
        return next((value for each, value in self.headers if each == name), None)


Upstream = Callable[[RequestHead, bytes], tuple[ResponseHead, bytes]]


class PluginKit:
    """One instance of a plugin between `start` and `stop`: `async with PluginKit(MyPlugin, {"header": "x"}) as kit:`.

    timeout_s: what is allowed each hook call. context: what the plugin may use; a `FakeContext` that answers nothing by default.
    package: directory of the import package; what its plugin.yaml says holds then, as if all that it asks for was granted: hooks see
    the headers that it may read, get `NotGranted` for those that it may not write, and the configuration is checked against its schema and
    filled with the defaults. It needs the extra `marketplace` (`cli` has it).

    Construction raises what the plugin's `__init__` raises, PluginContractError for a hook that does not exist, and what
    `plugin_package.Declared` raises.
    """

    def __init__(
        self,
        plugin: Callable[[Mapping[str, Any]], Plugin],
        config: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = 1.0,
        context: FakeContext | None = None,
        package: Path | str | None = None,
    ) -> None:
        self._name = getattr(plugin, "__name__", str(plugin))
        self._timeout_s = timeout_s
        self._declared = _declared(Path(package)) if package is not None else None
        self.context = context or FakeContext()
        self.plugin = self._make(plugin, self._read(config or {}))
        self.timings: list[Timing] = []
        """Every hook call so far, oldest first."""

    def _read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config) if self._declared is None else self._declared.read_config(config)

    def _hook(self, name: str) -> Callable[..., Any]:
        """Return a hook as it is called: with what the plugin may see."""
        hook: Callable[..., Any] = getattr(self.plugin, name)
        permits = self._declared.permits if self._declared is not None else None
        return permits.guard(name, hook) if permits is not None and permits.limits else hook

    def _make(self, plugin: Any, config: Mapping[str, Any]) -> Plugin:
        if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
            made: Plugin = plugin(config)
            return made
        for name in dir(plugin):
            if name.startswith(("on_", "wants_")) and name not in BY_NAME and name not in ASKING:
                near = difflib.get_close_matches(name, [*BY_NAME, *ASKING], 1)
                raise self._broken(
                    name, "is no hook", f"did you mean {near[0]}?" if near else "begin other methods differently"
                )
        kind: type[Plugin] = plugin
        made = kind.__new__(kind)
        made.context = self.context  # as whoever runs plugins does: it is there before `__init__`
        kind.__init__(made, config)
        return made

    async def __aenter__(self) -> PluginKit:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ---- its life

    async def start(self) -> None:
        """Run `start`."""
        await self._call("start", lambda: self.plugin.start())

    async def stop(self) -> None:
        """Run `stop`, then cancel what it left."""
        try:
            await self._call("stop", lambda: self.plugin.stop())
        finally:
            await self.context.close()

    async def configure(self, config: Mapping[str, Any]) -> None:
        """Run `on_config`. Raises PluginContractError for a plugin without one: a process makes a new instance of it instead."""
        if type(self.plugin).on_config is Plugin.on_config:
            raise self._broken(
                "on_config",
                "is not there: with another configuration a new instance takes the plugin's place",
                "make another kit with that configuration, or write the hook",
            )
        filled = self._read(config)
        await self._run("on_config", lambda: self.plugin.on_config(filled), lambda r: checks.check_type(r, type(None)))

    # ---- one hook each

    async def request(self, head: RequestHead) -> RequestHead | Reply:
        """Run `on_request`. Raises PluginContractError, and whatever the hook raises."""
        before = _written(head)
        result: RequestHead | Reply = await self._run(
            "on_request", lambda: self._hook("on_request")(head), checks.check_request
        )
        if _written(head) != before:
            raise self._broken(
                "on_request", "changed the head it was given", "return a changed copy: head.with_header(…)"
            )
        return result

    async def request_body(self, head: RequestHead, body: bytes) -> bytes | tuple[RequestHead, bytes] | Reply:
        """Run `on_request_body`, if `wants_request_body` says so; else return the body."""
        if not self._hook("wants_request_body")(head):
            return body
        return await self._run(
            "on_request_body", lambda: self._hook("on_request_body")(head, body), checks.check_request_body
        )

    async def request_stream(self, head: RequestHead, pieces: Iterable[bytes]) -> bytes:
        """Return what `on_request_stream` makes of a body that comes in pieces."""
        stream = await self._run("on_request_stream", lambda: self._hook("on_request_stream")(head), lambda _: None)
        return await self._flow("on_request_stream", stream, pieces)

    async def route(self, head: RequestHead, choice: RouteChoice) -> RouteChoice | Reply:
        """Run `on_route`."""
        upstreams = (choice.upstream, *choice.upstreams)
        return await self._run(
            "on_route", lambda: self._hook("on_route")(head, choice), lambda r: checks.check_choice(r, upstreams)
        )

    async def endpoint(self, head: RequestHead, endpoint: Endpoint) -> Headers:
        """Run `on_endpoint`."""
        return await self._run("on_endpoint", lambda: self._hook("on_endpoint")(head, endpoint), checks.check_headers)

    async def response(self, request: RequestHead, head: ResponseHead) -> ResponseHead | Reply:
        """Run `on_response`. request: what `request` returned. Raises as `request` does."""
        return await self._run("on_response", lambda: self._hook("on_response")(request, head), checks.check_response)

    async def response_body(self, request: RequestHead, head: ResponseHead, body: bytes) -> bytes | Reply:
        """Run `on_response_body`, if `wants_response_body` says so; else return the body."""
        if not self._hook("wants_response_body")(request, head):
            return body
        return await self._run(
            "on_response_body",
            lambda: self._hook("on_response_body")(request, head, body),
            checks.check_response_body,
        )

    async def response_stream(self, request: RequestHead, head: ResponseHead, pieces: Iterable[bytes]) -> bytes:
        """Return what `on_response_stream` makes of a body that comes in pieces."""
        stream = await self._run(
            "on_response_stream", lambda: self._hook("on_response_stream")(request, head), lambda _: None
        )
        return await self._flow("on_response_stream", stream, pieces)

    async def done(self, request: RequestHead, done: Done) -> None:
        """Run `on_done`."""
        await self._run(
            "on_done", lambda: self._hook("on_done")(request, done), lambda r: checks.check_type(r, type(None))
        )

    async def client_message(self, socket: Socket, message: Message) -> Message | Close | None:
        """Run `on_client_message`."""
        return await self._run(
            "on_client_message", lambda: self._hook("on_client_message")(socket, message), checks.check_message
        )

    async def server_message(self, socket: Socket, message: Message) -> Message | Close | None:
        """Run `on_server_message`."""
        return await self._run(
            "on_server_message", lambda: self._hook("on_server_message")(socket, message), checks.check_message
        )

    async def event_accepted(self, event: Event) -> Event | Refusal:
        """Run `on_event_accepted`."""
        return await self._run(
            "on_event_accepted",
            lambda: self._hook("on_event_accepted")(event),
            lambda r: checks.check_type(r, *checks.EVENT),
        )

    async def event_delivered(self, event: Event, delivery: Delivery) -> None:
        """Run `on_event_delivered`."""
        await self._run(
            "on_event_delivered",
            lambda: self._hook("on_event_delivered")(event, delivery),
            lambda r: checks.check_type(r, type(None)),
        )

    async def event_dead_lettered(self, event: Event, delivery: Delivery) -> None:
        """Run `on_event_dead_lettered`."""
        await self._run(
            "on_event_dead_lettered",
            lambda: self._hook("on_event_dead_lettered")(event, delivery),
            lambda r: checks.check_type(r, type(None)),
        )

    async def operation_parsed(self, operation: Operation) -> Operation | Refusal:
        """Run `on_operation_parsed`."""
        return await self._run(
            "on_operation_parsed",
            lambda: self._hook("on_operation_parsed")(operation),
            lambda r: checks.check_type(r, *checks.OPERATION),
        )

    async def operation_resolved(self, operation: Operation, result: Resolved) -> Resolved:
        """Run `on_operation_resolved`."""
        return await self._run(
            "on_operation_resolved",
            lambda: self._hook("on_operation_resolved")(operation, result),
            lambda r: checks.check_type(r, *checks.RESOLVED),
        )

    async def manifest(self, manifest: Manifest) -> Manifest | Refusal:
        """Run `on_manifest`, twice: equal manifests have to give equal results."""
        first = await self._run(
            "on_manifest",
            lambda: self.plugin.on_manifest(manifest),
            lambda r: checks.check_type(r, *checks.MANIFEST),
        )
        if self.plugin.on_manifest(manifest) != first:
            raise self._broken("on_manifest", "gave another result for the same manifest", "make it pure")
        return first

    # ---- a whole request

    async def exchange(
        self, head: RequestHead, upstream: Callable[[RequestHead], ResponseHead] = lambda _: ResponseHead(200)
    ) -> ResponseHead | Reply:
        """Run a request through both hooks on heads; `upstream` answers what `on_request` let pass."""
        passed = await self.request(head)
        return passed if isinstance(passed, Reply) else await self.response(passed, upstream(passed))

    async def roundtrip(
        self, head: RequestHead, body: bytes = b"", upstream: Upstream = lambda _, __: (ResponseHead(200), b"")
    ) -> Exchanged:
        """Run a request through all hooks of requests that the plugin overrides, in their order, bodies in three pieces."""
        kind = type(self.plugin)
        passed = await self.request(head)
        if isinstance(passed, Reply):
            return await self._answered(passed, head)
        if kind.on_request_body is not Plugin.on_request_body:
            changed = await self.request_body(passed, body)
            if isinstance(changed, Reply):
                return await self._answered(changed, passed)
            if isinstance(changed, tuple):
                passed, body = changed
            else:
                body = changed
        if kind.on_request_stream is not Plugin.on_request_stream and body:
            body = await self.request_stream(passed, _pieces(body))
        answer, content = upstream(passed, body)
        responded = await self.response(passed, answer)
        if isinstance(responded, Reply):
            return Exchanged(responded.status, responded.headers, responded.body, passed, body)
        if kind.on_response_body is not Plugin.on_response_body:
            made = await self.response_body(passed, responded, content)
            if isinstance(made, Reply):
                return Exchanged(made.status, made.headers, made.body, passed, body)
            content = made
        if kind.on_response_stream is not Plugin.on_response_stream and content:
            content = await self.response_stream(passed, answer, _pieces(content))
        return Exchanged(responded.status, responded.headers, content, passed, body)

    async def _answered(self, reply: Reply, head: RequestHead) -> Exchanged:
        return Exchanged(reply.status, reply.headers, reply.body)

    # ---- calling

    async def _run(self, hook: str, work: Callable[[], T | Awaitable[T]], check: Callable[[T], Fault | None]) -> T:
        result: T = await self._call(hook, work)
        fault = check(result)
        if fault is not None:
            raise self._broken(hook, *fault)
        return result

    async def _flow(self, hook: str, stream: BodyStream | None, pieces: Iterable[bytes]) -> bytes:
        if stream is None:
            return b"".join(pieces)
        made = [await self._run(hook, partial(stream.feed, piece), checks.check_piece) for piece in pieces if piece]
        made.append(await self._run(hook, stream.finish, checks.check_piece))
        return b"".join(made)

    async def _call(self, hook: str, work: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        started = loop.time()
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                result = work()
                if inspect.isawaitable(result):
                    if hook in BY_NAME and not BY_NAME[hook].awaits:
                        if inspect.iscoroutine(result):
                            result.close()
                        raise self._broken(hook, "is a coroutine", "make it a plain function")
                    value = await result
                else:
                    value = result
        except TimeoutError as error:
            if limit.expired():
                raise self._slow(hook) from error
            raise
        seconds = loop.time() - started
        self.timings.append(Timing(hook, seconds))
        if seconds > self._timeout_s:  # without an await inside, no timeout can interrupt it
            raise self._slow(hook)
        return value

    def _slow(self, hook: str) -> PluginContractError:
        return self._broken(
            hook,
            f"took longer than {self._timeout_s:g} s",
            "await what is slow with a deadline, and do not block the event loop",
        )

    def _broken(self, hook: str, what: str, fix: str) -> PluginContractError:
        return PluginContractError(f"{self._name}.{hook} {what}; {fix}.")


def _declared(package: Path) -> Declared:
    # Tests of services do without what this needs.
    from nexus_sdk.testing.plugin_package import Declared

    return Declared(package)


def _pieces(body: bytes) -> Iterable[bytes]:
    """Cut a body into three, so that what is cut in the middle is tested, too."""
    third = max(len(body) // 3, 1)
    return (body[:third], body[third : 2 * third], body[2 * third :])


def _written(head: RequestHead) -> str:
    """Return all of a head that no hook may change: its notes are there to be."""
    return repr((head.method, head.path, head.query, head.host, head.headers, head.client_ip, head.route))
