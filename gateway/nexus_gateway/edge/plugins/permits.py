"""Which headers a plugin may see and change (`nexus_hosting.permits`), where it costs least: heads that are read only when asked for.

What a plugin that only adds headers it may write has made of such a head is the real one with a line more, and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from nexus_core.hooks import Headers, RequestHead
from nexus_hosting import permits
from nexus_hosting.permits import Names, later, waits

from nexus_gateway.edge.heads import UNREAD, latest

_read = RequestHead.__dict__["headers"].__get__
_keep = RequestHead.__dict__["headers"].__set__


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


class Permits(permits.Permits):
    """The grants of one plugin."""

    __slots__ = ()

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

    def guard_request(self, hook: Callable[[RequestHead], object]) -> Callable[[RequestHead], object]:
        """Return `on_request` as it is called with real heads."""

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
            if waits(result):
                return later(result, lambda done: self.asked(real, seen, done))
            return self.asked(real, seen, result)

        return guarded
