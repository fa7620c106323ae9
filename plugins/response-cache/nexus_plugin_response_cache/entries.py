"""Stored responses: for which requests they are, how old they are, and the answers they make. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from nexus_sdk.plugin import Headers, Reply, RequestHead, ResponseHead

from . import directives
from .freshness import Terms

CACHE = "nexus"
"""This cache's name in Cache-Status (RFC 9211)."""
_HOPS = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding",
     "upgrade"}
)  # fmt: skip
_NOT_STORED = _HOPS | {"age", "content-length", "proxy-authentication-info", "set-cookie", "set-cookie2"}
_IN_304 = frozenset({"cache-control", "content-location", "date", "etag", "expires", "vary"})
"""RFC 9110, 15.4.5. What else is there the client has already."""
_OVERHEAD = 1500
"""Bytes of an entry's objects beside its texts and body."""

OF_ADDRESS = ("host", "x-forwarded-host", "x-forwarded-proto")
"""Headers by which a service knows its own address as the client has it: scheme and port, too, which `url_of` lacks. It may write them
into any response (links, redirects), so that each is for requests of the same address, whatever `Vary` says."""

Vary = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored response.

    url: `url_of` its request. vary: the request's headers that it was chosen by, with their values: `OF_ADDRESS`, and what `Vary` names.
    at: when it arrived, in seconds since 1970. age_s: then. tags: lower-case, for purging.
    """

    url: str
    route: str
    vary: Vary
    status: int
    headers: Headers
    body: bytes
    at: float
    age_s: float
    terms: Terms
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The same for responses that take each other's place."""
        text = json.dumps([self.url, self.route, self.vary])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        texts = sum([len(name) + len(value) + 150 for name, value in self.headers])
        return len(self.body) + texts + 2 * len(self.url) + _OVERHEAD

    @property
    def is_validatable(self) -> bool:
        return any(name in ("etag", "last-modified") for name, _ in self.headers)

    @property
    def kept_s(self) -> float:
        """How long it is good for anything, from `at`; a day longer when the service can be asked whether it still is."""
        terms = self.terms
        stale_s = max(terms.stale_while_revalidate_s, terms.stale_if_error_s)
        return max(0.0, terms.lifetime_s - self.age_s) + stale_s + (86400.0 if self.is_validatable else 0.0)

    def age(self, now: float) -> float:
        return self.age_s + max(0.0, now - self.at)

    def stale_by(self, now: float) -> float:
        """Return for how many seconds it has been stale; negative while it is fresh."""
        return self.age(now) - self.terms.lifetime_s

    def is_for(self, request: RequestHead) -> bool:
        """Return whether the request's headers choose this response (RFC 9111, 4.1)."""
        return self.route == request.route and all(
            directives.values(request.headers, name).strip() == value for name, value in self.vary
        )

    def freshened(self, response: ResponseHead, terms: Terms, now: float, age_s: float) -> Entry:
        """Return the entry as a 304 says it now is: what the 304 names takes the place of what was there (RFC 9111, 3.2)."""
        newer = storable_headers(response.headers)
        named = {name for name, _ in newer} | {"age"}
        # What describes the stored body stays: the 304 has none.
        kept = tuple([pair for pair in self.headers if pair[0] not in named or pair[0].startswith("content-")])
        newer = tuple([pair for pair in newer if not pair[0].startswith("content-")])
        return replace(self, headers=(*kept, *newer), at=now, age_s=age_s, terms=terms)

    def validators(self) -> Headers:
        """Return the headers that ask a service whether this response is still good."""
        etag = next((value for name, value in self.headers if name == "etag"), None)
        modified = next((value for name, value in self.headers if name == "last-modified"), None)
        asked = (("if-none-match", etag), ("if-modified-since", modified))
        return tuple([(name, value) for name, value in asked if value is not None])

    def answer(self, request: RequestHead, now: float, status: str, hidden: Sequence[str] = ()) -> Reply:
        """Return the answer to a request: 304 when it has this response already. status: parameters of Cache-Status."""
        own = (("age", str(int(self.age(now)))), ("cache-status", f"{CACHE}; {status}"))
        if self.status == 200 and self._is_known_to(request):
            return Reply(304, (*[pair for pair in self.headers if pair[0] in _IN_304], *own))
        return Reply(self.status, (*[pair for pair in self.headers if pair[0] not in hidden], *own), self.body)

    def _is_known_to(self, request: RequestHead) -> bool:
        """Return whether the request's conditions say that the client has this response (RFC 9110, 13.2.2)."""
        sent = directives.values(request.headers, "if-none-match").strip()
        if sent:
            etag = next((value for name, value in self.headers if name == "etag"), None)
            if etag is None:
                return False
            return sent == "*" or _opaque(etag) in [_opaque(each.strip()) for each in _tags(sent)]
        since = directives.date(request.header("if-modified-since"))
        modified = directives.date(next((value for name, value in self.headers if name == "last-modified"), None))
        return since is not None and modified is not None and modified <= since


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")


def _tags(text: str) -> list[str]:
    """Cut a list of tags; a comma within quotes is part of one."""
    found, start, quoted = [], 0, False
    for at, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            found.append(text[start:at])
            start = at + 1
    return [*found, text[start:]]


def storable_headers(headers: Headers) -> Headers:
    """Return what of a response's headers is stored: not those of this connection, nor what each answer gets anew."""
    listed = _NOT_STORED | set(directives.names(directives.values(headers, "connection")))
    return tuple([pair for pair in headers if pair[0] not in listed])


def url_of(host: str, path: str, query: str, ignored: Sequence[str] = (), *, ordered: bool = False) -> str:
    """Return what responses are found by. ignored: query parameters that make no difference, `utm_*` for all that begin so.

    ordered: whether their order makes none either.
    """
    if query and (ignored or ordered):
        parts = [part for part in query.split("&") if part and not _is_ignored(part, ignored)]
        query = "&".join(sorted(parts) if ordered else parts)
    return f"{host}{path}?{query}" if query else host + path


def _is_ignored(part: str, ignored: Sequence[str]) -> bool:
    name = unquote_plus(part.partition("=")[0])
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in ignored)


def pack(entry: Entry) -> bytes:
    """Return an entry as bytes, for a store outside."""
    terms = entry.terms
    head: dict[str, Any] = {
        "v": 1, "url": entry.url, "route": entry.route, "vary": entry.vary, "status": entry.status, "headers": entry.headers,
        "at": entry.at, "age": entry.age_s, "tags": entry.tags,
        "terms": [terms.lifetime_s, terms.stale_while_revalidate_s, terms.stale_if_error_s, terms.validate, terms.authorized],
    }  # fmt: skip
    return json.dumps(head).encode() + b"\n" + entry.body


def unpack(data: bytes) -> Entry | None:
    """Return the entry that `pack` made bytes of, None for anything else: what a store outside holds may be of another version."""
    text, found, body = data.partition(b"\n")
    try:
        head = json.loads(text)
        if not found or head["v"] != 1:
            return None
        headers = tuple([(str(name), str(value)) for name, value in head["headers"]])
        vary = tuple([(str(name), str(value)) for name, value in head["vary"]])
        lifetime_s, while_s, if_error_s, validate, authorized = head["terms"]
        terms = Terms(float(lifetime_s), float(while_s), float(if_error_s), bool(validate), bool(authorized))
        return Entry(
            str(head["url"]), str(head["route"]), vary, int(head["status"]), headers, body, float(head["at"]), float(head["age"]), terms,
            tuple(map(str, head["tags"])),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None
