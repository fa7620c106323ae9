"""Which headers a plugin may see and change, at run time. A plugin that may see and change all of them is called directly.

It gets heads that hold only what it may read, and what it returns is merged into the real one: headers that it cannot see stay as they
are. One that it changed, added or took away without being granted that is its failure (`NotGranted`), judged by its failure policy. A
`Reply` is the plugin's own message, and not judged. No I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec.structs import replace
from nexus_core.hooks import Headers, NotGranted, Reply, RequestHead, ResponseHead, Socket
from nexus_core.snapshot import Permissions

from nexus_gateway.edge.heads import UNREAD, latest

_read = RequestHead.__dict__["headers"].__get__
_keep = RequestHead.__dict__["headers"].__set__


class Names:
    """Names that a grant has: `*`, `x-acme-*`, or whole ones; lower-case."""

    __slots__ = ("_names", "_prefixes", "all")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.all = "*" in patterns
        self._names = frozenset(each.lower() for each in patterns if not each.endswith("*"))
        self._prefixes = tuple(each[:-1].lower() for each in patterns if each.endswith("*"))

    def __contains__(self, name: str) -> bool:
        return name in self._names or (bool(self._prefixes) and name.startswith(self._prefixes))

    def of(self, headers: Headers) -> Headers:
        """Return the pairs that have one of these names, in their order."""
        return tuple([pair for pair in headers if pair[0] in self])


class SeenHead(RequestHead, frozen=True, eq=False):
    """A `RequestHead` of which only some headers are to be seen. They are read when somebody asks for all of them.

    names, writes: of headers that may be read, and written. wrote: names that the plugin has just written; it sees those, too.
    """

    real: RequestHead | None = None
    names: Names | None = None
    writes: Names | None = None
    wrote: tuple[str, ...] = ()

    @property  # type: ignore[misc]  # a field there, and a view of the same place here
    def headers(self) -> Headers:
        """Those that may be read."""
        found: Headers | None = _read(self)
        if found is None:
            assert self.real is not None
            assert self.names is not None
            names, wrote = self.names, self.wrote
            found = tuple([pair for pair in self.real.headers if pair[0] in names or pair[0] in wrote])
            _keep(self, found)
        return found

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        assert self.real is not None
        assert self.names is not None
        return self.real.header(name) if name in self.names or name in self.wrote else None

    def with_header(self, name: str, value: str) -> RequestHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        real, writes = self.real, self.writes
        if self is latest.seen and real is not None and writes is not None and type(name) is str and name in writes:
            made = real.with_header(name, value)
            if made is latest.head:
                latest.seen = seen = replace(self, headers=UNREAD, real=made, wrote=(*self.wrote, name))
                return seen
        return RequestHead.with_header(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestHead) and _plain(self) == _plain(other)

    def __hash__(self) -> int:
        return hash(_plain(self))

    def __repr__(self) -> str:
        return repr(_plain(self))


def _plain(head: RequestHead) -> tuple[object, ...]:
    return head.method, head.path, head.query, head.host, head.headers, head.client_ip, head.route


class Permits:
    """The grants of one plugin."""

    __slots__ = ("_plugin", "_reads", "_writes", "limits")

    def __init__(self, plugin: str, granted: Permissions) -> None:
        self._plugin = plugin
        self._reads = Names(granted.read_headers)
        self._writes = Names(granted.write_headers)
        self.limits = not (self._reads.all and self._writes.all)

    # ---- what it sees

    def request(self, head: RequestHead) -> RequestHead:
        """Return the head as the plugin may see it."""
        return head if self._reads.all else self._seen(head)

    def _seen(self, head: RequestHead) -> SeenHead:
        return SeenHead(
            head.method,
            head.path,
            head.query,
            head.host,
            UNREAD,
            head.client_ip,
            head.route,
            head.notes,
            head,
            self._reads,
            self._writes,
        )

    def response(self, head: ResponseHead) -> ResponseHead:
        """Return the head as the plugin may see it."""
        return head if self._reads.all else ResponseHead(head.status, self._reads.of(head.headers))

    # ---- what it says

    def merge_request(self, real: RequestHead, seen: RequestHead, result: RequestHead) -> RequestHead:
        """Return the real head with what the plugin changed of what it saw. Raises `NotGranted`."""
        headers = self.merge(real.headers, seen.headers, result.headers)
        return RequestHead(
            result.method, result.path, result.query, result.host, headers, result.client_ip, result.route, real.notes
        )

    def merge_response(self, real: ResponseHead, seen: ResponseHead, result: ResponseHead) -> ResponseHead:
        """Return the real head with what the plugin changed of what it saw. Raises `NotGranted`."""
        return ResponseHead(result.status, self.merge(real.headers, seen.headers, result.headers))

    def merge(self, real: Headers, seen: Headers, after: Headers) -> Headers:
        """Return real headers in which what was changed between `seen` and `after` is changed. Raises `NotGranted`."""
        if after is seen or not isinstance(after, tuple):
            return real if after is seen else after  # the check of results says what is wrong with it
        count = len(seen)
        added = after[count:] if after[:count] == seen else None
        if added is not None:
            names = {_name(pair) for pair in added}
            self.check(names)
            if not any(pair[0] in names for pair in real):
                return (*real, *added)
        names = {_name(pair) for pair in (*seen, *after)}
        changed = {name for name in names if _values(seen, name) != _values(after, name)}
        self.check(changed)
        kept = [pair for pair in real if pair[0] not in changed]
        return (*kept, *[pair for pair in after if _name(pair) in changed])

    def check(self, names: Iterable[str]) -> None:
        """Raise `NotGranted` for names that the plugin may not write."""
        writes = self._writes
        if writes.all:
            return
        refused = sorted(name for name in names if name not in writes)
        if refused:
            raise NotGranted(
                f"it may not write the header {refused[0]!r}: its NexusPlugin grants none of that name in "
                "spec.grants.headers.write"
            )

    # ---- hooks that get and return heads

    def guard(self, name: str, hook: Callable[..., object]) -> Callable[..., object]:
        """Return a hook as it is called with real heads."""
        if name == "on_request":
            return self.guard_request(hook)
        if name == "on_response":
            return self.guard_response(hook)
        if name == "on_request_body":
            return self.guard_body(hook)
        return self.guard_endpoint(hook) if name == "on_endpoint" else self.guard_others(hook)

    def guard_request(self, hook: Callable[[RequestHead], object]) -> Callable[[RequestHead], object]:
        """Return `on_request` as it is called with real heads."""

        def merged(real: RequestHead, seen: RequestHead, result: object) -> object:
            if result is seen:
                return real
            return self.merge_request(real, seen, result) if isinstance(result, RequestHead) else result

        def guarded(real: RequestHead) -> object:
            seen = latest.seen = self._seen(real)
            try:
                result = hook(seen)
            finally:
                made, latest.seen = latest.seen, None
            if result is seen:
                return real
            if made is not None and result is made:
                return made.real  # nothing but headers that it may write was added
            if _waits(result):
                return _later(result, lambda done: merged(real, seen, done))
            return merged(real, seen, result)

        return guarded

    def guard_response(
        self, hook: Callable[[RequestHead, ResponseHead], object]
    ) -> Callable[[RequestHead, ResponseHead], object]:
        """Return `on_response` as it is called with real heads."""

        def merged(real: ResponseHead, seen: ResponseHead, result: object) -> object:
            if result is seen:
                return real
            return self.merge_response(real, seen, result) if isinstance(result, ResponseHead) else result

        def guarded(request: RequestHead, real: ResponseHead) -> object:
            seen = self.response(real)
            result = hook(self.request(request), seen)
            if _waits(result):
                return _later(result, lambda done: merged(real, seen, done))
            return merged(real, seen, result)

        return guarded

    def guard_body(self, hook: Callable[[RequestHead, bytes], object]) -> Callable[[RequestHead, bytes], object]:
        """Return `on_request_body` as it is called with real heads."""

        def merged(real: RequestHead, seen: RequestHead, result: object) -> object:
            if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], RequestHead):
                return result
            head, body = result
            return (real if head is seen else self.merge_request(real, seen, head)), body

        def guarded(real: RequestHead, body: bytes) -> object:
            seen = self.request(real)
            result = hook(seen, body)
            if _waits(result):
                return _later(result, lambda done: merged(real, seen, done))
            return merged(real, seen, result)

        return guarded

    def guard_endpoint(self, hook: Callable[..., object]) -> Callable[..., object]:
        """Return `on_endpoint` as it is called with real heads."""

        def guarded(request: RequestHead, endpoint: object) -> object:
            added = hook(self.request(request), endpoint)
            if isinstance(added, tuple):
                self.check({_name(pair) for pair in added})
            return added

        return guarded

    def guard_others(self, hook: Callable[..., object]) -> Callable[..., object]:
        """Return a hook that sees heads and returns none, as it is called with real ones."""

        def guarded(*given: object) -> object:
            return hook(*[self._limited(each) for each in given])

        return guarded

    def _limited(self, value: object) -> object:
        if isinstance(value, RequestHead):
            return self.request(value)
        if isinstance(value, Socket):
            return Socket(value.id, self.request(value.request))
        return self.response(value) if isinstance(value, ResponseHead) else value


def _waits(result: object) -> bool:
    return not isinstance(result, RequestHead | ResponseHead | Reply | tuple | bytes) and inspect.isawaitable(result)


async def _later(waiting: Any, merged: Callable[[object], object]) -> object:
    awaited: Awaitable[object] = waiting
    return merged(await awaited)


def _name(pair: object) -> str:
    """Return a pair's name, lower-case; empty for what is no pair, which the check of results refuses."""
    if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str):
        return pair[0].lower()
    return ""


def _values(headers: Headers, name: str) -> list[object]:
    return [pair[1] for pair in headers if _name(pair) == name]
