"""Which headers a plugin may see and change, at run time. A plugin that may see and change all of them is called directly.

It gets heads and operations that hold only what it may read, and what it returns is merged into the real one: headers that it cannot see
stay as they are. One that it changed, added or took away without being granted that is its failure (`NotGranted`), judged by its failure
policy. A `Reply` is the plugin's own message, and not judged. No I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from nexus_core.hooks import Headers, NotGranted, Operation, Reply, RequestHead, ResponseHead, Socket
from nexus_core.snapshot import Permissions, PluginInstance

GRANTS = "its NexusPlugin grants none of that name in spec.grants.headers.write"


def granted_to(runs: PluginInstance, wanted: PluginInstance) -> Permissions:
    """Return what a plugin may that runs in the place of another instance.

    Of the same release: what that one may, so that what is granted no more is gone at once. A former release that goes on goes on with
    what it asks for itself: the other's grants are of what the other asks for.
    """
    return wanted.granted if runs.release.sha256 == wanted.release.sha256 else runs.granted


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


class Permits:
    """The grants of one plugin. limits: whether there is a header that it may not see or change.

    lacks: ends the message about a header that it may not write: where that name would have to be.
    """

    __slots__ = ("_lacks", "_reads", "_writes", "limits")

    def __init__(self, granted: Permissions, lacks: str = GRANTS) -> None:
        self._lacks = lacks
        self._reads = Names(granted.read_headers)
        self._writes = Names(granted.write_headers)
        self.limits = not (self._reads.all and self._writes.all)

    # ---- what it sees

    def request(self, head: RequestHead) -> RequestHead:
        """Return the head as the plugin may see it."""
        return head if self._reads.all else self._seen(head)

    def _seen(self, head: RequestHead) -> RequestHead:
        return RequestHead(
            head.method,
            head.path,
            head.query,
            head.host,
            self._reads.of(head.headers),
            head.client_ip,
            head.route,
            head.notes,
        )

    def response(self, head: ResponseHead) -> ResponseHead:
        """Return the head as the plugin may see it."""
        return head if self._reads.all else ResponseHead(head.status, self._reads.of(head.headers))

    def operation(self, operation: Operation) -> Operation:
        """Return the operation as the plugin may see it."""
        if self._reads.all:
            return operation
        return replace(operation, headers=self._reads.of(operation.headers))

    # ---- what it says

    def merge_request(self, real: RequestHead, seen: RequestHead, result: RequestHead) -> RequestHead:
        """Return the real head with what the plugin changed of what it saw. Raises `NotGranted`."""
        headers = self.merge(real.headers, seen.headers, result.headers)
        return RequestHead(
            result.method, result.path, result.query, result.host, headers, result.client_ip, result.route, real.notes
        )

    def asked(self, real: RequestHead, seen: RequestHead, result: object) -> object:
        """Return what the plugin made of the real head, which may be no head at all. Raises `NotGranted`."""
        if result is seen:
            return real
        return self.merge_request(real, seen, result) if isinstance(result, RequestHead) else result

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
            raise NotGranted(f"it may not write the header {refused[0]!r}: {self._lacks}")

    # ---- hooks that get and return heads

    def guard(self, name: str, hook: Callable[..., object]) -> Callable[..., object]:
        """Return a hook as it is called with real heads."""
        if name == "on_request":
            return self.guard_request(hook)
        if name == "on_response":
            return self.guard_response(hook)
        if name == "on_request_body":
            return self.guard_body(hook)
        if name == "on_operation_parsed":
            return self.guard_operation(hook)
        return self.guard_endpoint(hook) if name == "on_endpoint" else self.guard_others(hook)

    def guard_request(self, hook: Callable[[RequestHead], object]) -> Callable[[RequestHead], object]:
        """Return `on_request` as it is called with real heads."""

        def guarded(real: RequestHead) -> object:
            seen = self.request(real)
            result = hook(seen)
            if waits(result):
                return later(result, lambda done: self.asked(real, seen, done))
            return self.asked(real, seen, result)

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
            if waits(result):
                return later(result, lambda done: merged(real, seen, done))
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
            if waits(result):
                return later(result, lambda done: merged(real, seen, done))
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

    def guard_operation(self, hook: Callable[[Operation], object]) -> Callable[[Operation], object]:
        """Return `on_operation_parsed` as it is called with real operations."""

        def merged(real: Operation, seen: Operation, result: object) -> object:
            if result is seen:
                return real
            if not isinstance(result, Operation):
                return result
            return replace(result, headers=self.merge(real.headers, seen.headers, result.headers))

        def guarded(real: Operation) -> object:
            seen = self.operation(real)
            result = hook(seen)
            if waits(result):
                return later(result, lambda done: merged(real, seen, done))
            return merged(real, seen, result)

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
        if isinstance(value, Operation):
            return self.operation(value)
        return self.response(value) if isinstance(value, ResponseHead) else value


def waits(result: object) -> bool:
    """Return whether a hook's result has to be awaited."""
    return not isinstance(
        result, RequestHead | ResponseHead | Reply | Operation | tuple | bytes
    ) and inspect.isawaitable(result)


async def later(waiting: Any, merged: Callable[[object], object]) -> object:
    """Return what `merged` makes of a result that has to be awaited."""
    awaited: Awaitable[object] = waiting
    return merged(await awaited)


def _name(pair: object) -> str:
    """Return a pair's name, lower-case; empty for what is no pair, which the check of results refuses."""
    if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str):
        return pair[0].lower()
    return ""


def _values(headers: Headers, name: str) -> list[object]:
    return [pair[1] for pair in headers if _name(pair) == name]
