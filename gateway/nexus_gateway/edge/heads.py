"""The head of a request as hooks get it first: its headers are read as text when somebody asks for all of them.

Most hooks look for one header or two, and add one. A head of twelve headers that come for the first time takes 4 µs to read as text, one
look-up 0.4 µs; and one that is only added to goes on as the client's bytes with a line more.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from nexus_core.hooks import Headers, RequestHead
from nexus_wire.http1 import RequestBlock

from nexus_gateway.edge.plugins.checking import MAX_LINE, check_pair
from nexus_gateway.edge.requests import KEPT_OUT, SAID, authority_of
from nexus_gateway.telemetry.redactions import is_secret

if TYPE_CHECKING:
    from nexus_gateway.edge.plugins.permits import SeenHead
    from nexus_gateway.edge.standing import Standing

NOTHING = b"\r\n"
"""`ArrivedHead.added` of a head to which nothing was added."""
_OWN = frozenset(name.decode() for name in SAID) | {"host", "forwarded"}
"""What the gateway's own lines may be about, besides X-Forwarded-*; the client's lines of these names are kept aside."""
_SPECIAL = _OWN | KEPT_OUT | {"x-request-id"}
_MAX_STEPS = 4096
_MAX_STEP = 1024
UNREAD: Any = None
"""In the place of headers that nobody has asked for yet."""
_read = RequestHead.__dict__["headers"].__get__
_keep = RequestHead.__dict__["headers"].__set__


class Latest:
    """What `with_header` made last of the head that a hook was given.

    head: it, or the head given if nothing was made of it yet; None while no hook is called that may add to one. What a hook returned is
    this very object: then it is the head it was given and some lines more, and nothing of it has to be looked at. Any other is checked.
    seen: the same of the view that a plugin got which may not see all of it (`plugins.permits`).
    """

    __slots__ = ("head", "seen")

    def __init__(self) -> None:
        self.head: RequestHead | None = None
        self.seen: SeenHead | None = None


latest = Latest()
_steps: dict[tuple[bytes, str, str], tuple[bytes, str]] = {}
"""What plugins add again and again: lines so far and one header more → lines then, and how its own begins. Bounded; what is kept out of
logs is never in it."""
_kept = {NOTHING}
"""The lines in `_steps`."""


class ArrivedHead(RequestHead, frozen=True, eq=False):
    """A `RequestHead` like any other to those who get it.

    block, own, rid, added: what `headers` is made of, while that is None: the client's block, the gateway's own lines, the request's id,
    and CRLF with the lines that plugins added.
    """

    block: RequestBlock | None = None
    own: bytes = b""
    rid: bytes = b""
    added: bytes = NOTHING

    @property  # type: ignore[misc]  # a field there, and a view of the same place here
    def headers(self) -> Headers:
        """All end-to-end headers: the gateway's forwarding headers in place of the client's."""
        found: Headers | None = _read(self)
        if found is None:
            assert self.block is not None
            rid = ("x-request-id", self.rid.decode("latin-1"))
            found = (*pairs_of(self.own), *self.block.passed, rid, *_pairs_added(self.added))
            _keep(self, found)
        return found

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        if _read(self) is None and self.block is not None:
            if name == "x-request-id":
                return self.rid.decode("latin-1")
            if name in _OWN or name.startswith("x-forwarded-"):
                return next((value for own, value in pairs_of(self.own) if own == name), None)
            if self.added is not NOTHING:
                # Of a name that was added, there is no other.
                for own, value in _pairs_added(self.added):
                    if own == name:
                        return value
            return self.block.first(name)
        return RequestHead.header(self, name)

    def with_header(self, name: str, value: str) -> RequestHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        if self is latest.head:
            try:
                step = _steps.get((self.added, name, value)) or _step(self.added, name, value)
            except TypeError:  # of no type that can be sent: told of when it is returned
                step = None
            if step is not None:
                added, begins = step
                block = self.block
                # Text, since bytes take what they are asked for to be a number first.
                if begins not in (block.lower or block.lowered()):  # type: ignore[union-attr]  # it has one
                    latest.head = head = replace(self, headers=UNREAD, added=added)
                    return head
        return RequestHead.with_header(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestHead) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(RequestHead(*_values(self)))

    def __repr__(self) -> str:
        return repr(RequestHead(*_values(self)))


def arrived(exchange: Standing) -> ArrivedHead:
    """Return the head of a request that no plugin has seen."""
    line, block, entry = exchange.line, exchange.block, exchange.entry
    assert entry is not None
    peer, aside = exchange.stream.context, block.aside
    if line.authority:
        authority, host, _ = authority_of(line, block)
    else:
        authority, host = block.authority, block.host
    forwarding = exchange.proxy.forwarding
    return ArrivedHead(
        line.method,
        line.path,
        line.query,
        host,
        UNREAD,
        forwarding.client_ip(peer, aside) if peer.trusted else peer.address,
        entry.route.id,
        {},
        block,
        forwarding.lines(peer, authority, aside),
        exchange.request_id,
    )


@lru_cache(4096)
def pairs_of(lines: bytes) -> Headers:
    """Return header lines as pairs. lines: the gateway's own, which are the same for all requests of a connection to one host."""
    return tuple(
        (name.decode("latin-1"), value.strip().decode("latin-1"))
        for name, _, value in (line.partition(b":") for line in lines.split(b"\r\n") if line)
    )


def _pairs_added(added: bytes) -> Headers:
    """Return lines that plugins added, as the pairs that they were made of."""
    if added is NOTHING:
        return ()
    parted = (line.partition(": ") for line in added.decode().split("\r\n") if line)
    return tuple((name, value) for name, _, value in parted)


def _step(added: bytes, name: str, value: str) -> tuple[bytes, str] | None:
    """Return lines with one header more, and how that begins; None for one that cannot be added as a line, or is not to be sent."""
    if type(name) is not str or type(value) is not str or name != name.lower() or name in _SPECIAL:
        return None
    if name.startswith("x-forwarded-") or len(added) > MAX_LINE:
        return None
    try:
        check_pair((name, value))
    except ValueError:
        return None  # told of when it is returned
    begins = f"{name}:"
    start = added.find(f"\n{begins}".encode()) + 1
    before = added[:start] + added[added.index(b"\n", start) + 1 :] if start else added
    found = before + f"{name}: {value}\r\n".encode(), begins
    if added in _kept and len(found[0]) <= _MAX_STEP and not is_secret(name):
        if len(_steps) >= _MAX_STEPS:
            # Of values that come once; those that come again are soon back.
            _steps.clear()
            _kept.clear()
            _kept.update((NOTHING, added))
        _steps[added, name, value] = found
        _kept.add(found[0])
    return found


def _values(head: RequestHead) -> tuple[str, str, str, str, Headers, str, str]:
    return head.method, head.path, head.query, head.host, head.headers, head.client_ip, head.route
