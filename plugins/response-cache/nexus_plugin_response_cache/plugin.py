"""The plugin: answers from the store, sends one of many equal requests on, and stores what comes back.

A request that goes on is a flight; equal ones wait for it. What a response means is decided in `on_response`, and its body is copied
while it passes to the client. Source: RFC 9111, RFC 5861, RFC 9211.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from nexus_sdk.plugin import BodyStream, Done, Plugin, Reply, RequestHead, ResponseHead

from . import directives, purging
from .entries import CACHE, OF_ADDRESS, Entry, storable_headers, url_of
from .flights import Flight, Flights, Key, Recent
from .freshness import initial_age_s, is_authorized, terms_of
from .keeping import Copy, settings_of
from .memory import Memory

if TYPE_CHECKING:
    from .shared import Shared

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_ERRORS = frozenset({500, 502, 503, 504})
_CONDITIONS = ("if-none-match", "if-modified-since")
_PASSING_S = 10.0
"""How long requests do not wait for each other after a response that was for one of them alone."""
_FAILING_S = 5.0
"""How long a service that failed is not asked again for what may be answered with something stale."""
_REMEMBERED = 10_000

Answer = RequestHead | Reply


class ResponseCache(Plugin):
    """A shared HTTP cache."""

    clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since 1970; tests set their own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._set = settings_of(config)
        self._memory = Memory(int(config["maxBytes"]))
        self._redis: Mapping[str, Any] = config["redis"]
        self._shared: Shared | None = None
        self._flights = Flights(self.context.plugin)
        self._varies: Recent[tuple[str, ...]] = Recent(_REMEMBERED)
        self._passing: Recent[float] = Recent(_REMEMBERED)
        self._failing: Recent[float] = Recent(_REMEMBERED)
        self._dropped: Recent[float] = Recent(_REMEMBERED)
        self._all_dropped_at = 0.0

    async def start(self) -> None:
        """Get the connection to Redis, where there is one. It is made with the first request."""
        if self._redis.get("url"):
            # Here, so that the client's library is loaded only where Redis is used.
            from .shared import Shared

            client = await self.context.redis(self._redis["url"])
            prefix = self._redis.get("prefix") or f"nexus:response-cache:{self.context.plugin}"
            terms = self._set.defaults
            kept_s = terms.most_s + 2 * 86400.0
            timeout_s = float(self._redis.get("timeoutSeconds", 0.1))
            self._shared = Shared(client, prefix, timeout_s, kept_s, lambda: self.clock(), self.context.log)
        elif self._set.purge_path and self.context.workers > 1:
            self.context.log.warning(
                "Each of %d workers has a store of its own, and a purge reaches one of them; config.redis.url shares one store.",
                self.context.workers,
            )

    # ---- requests

    def on_request(self, request: RequestHead) -> Answer | Coroutine[Any, Any, Answer]:
        """Return the answer that is stored, or the request that goes on for it; it may wait for an equal one that is on its way."""
        if self._set.purge_path and request.path == self._set.purge_path:
            wanted = purging.parse(request, self._set.purge_token)
            return wanted if isinstance(wanted, Reply) else self._purge(wanted)
        if self._why_not(request):
            return request
        url = self._url(request)
        if self._shared is not None:
            return self._ask_redis(self._shared, request, url)
        now = self.clock()
        decided = self._decide(request, url, self._memory.find(url, request, now), now)
        return self._wait(decided, request, url) if isinstance(decided, Flight) else decided

    async def _ask_redis(self, shared: Shared, request: RequestHead, url: str) -> Answer:
        decided = self._decide(request, url, await shared.find(url, request, self.clock()), self.clock())
        return await self._wait(decided, request, url) if isinstance(decided, Flight) else decided

    async def _wait(self, flight: Flight, request: RequestHead, url: str) -> Answer:
        """Wait for what equal requests bring, for a while; then go on alone."""
        try:
            async with asyncio.timeout(self._set.wait_s):
                while True:
                    await flight.landed.wait()
                    now = self.clock()
                    entry = flight.entry
                    if entry is not None and self._is_usable(entry, request):
                        return entry.answer(request, now, f"fwd={flight.why}; collapsed", self._set.hidden)
                    found = (
                        await self._shared.find(url, request, now)
                        if self._shared
                        else self._memory.find(url, request, now)
                    )
                    decided = self._decide(request, url, found, now)
                    if not isinstance(decided, Flight):
                        return decided
                    flight = decided
        except TimeoutError:
            return request

    def _decide(self, request: RequestHead, url: str, entry: Entry | None, now: float) -> Answer | Flight:
        """Return the stored answer, the request that goes on, or the flight to wait for."""
        said = directives.parse(directives.values(request.headers, "cache-control"))
        if not said and (request.header("pragma") or "").lower() == "no-cache":
            said = {"no-cache": None}
        asked = said if self._set.obey else {}
        if entry is not None and not self._is_usable(entry, request):
            entry = None
        stale_s = entry.stale_by(now) if entry is not None else 0.0
        if entry is not None and _satisfies(entry, asked, stale_s, now):
            detail = "; detail=max-stale" if stale_s >= 0 else ""
            return entry.answer(request, now, f"hit; ttl={int(-stale_s)}{detail}", self._set.hidden)
        if "only-if-cached" in asked:
            return _not_cached()
        is_own_wish = "no-cache" in asked
        key = self._key(request, url)
        flight = self._flights.find(key, now)
        if entry is not None and not is_own_wish:
            terms = entry.terms
            if flight is not None and stale_s < terms.stale_while_revalidate_s:
                return self._stale(entry, request, now, "stale-while-revalidate")
            if self._failing.get(url, 0.0) > now and stale_s < terms.stale_if_error_s:
                return self._stale(entry, request, now, "stale-if-error")
        # What it brings is for this request alone.
        own = is_own_wish or "no-store" in said or is_authorized(request)
        alone = own or self._passing.get(key, 0.0) > now
        if flight is not None and not alone:
            return flight
        why = "request" if is_own_wish and entry is not None else "stale" if entry is not None else "uri-miss"
        sent = request
        if entry is not None and entry.is_validatable:
            kept = tuple([pair for pair in request.headers if pair[0] not in _CONDITIONS])
            sent = request.with_headers((*kept, *entry.validators()))
        elif any(name in _CONDITIONS for name, _ in request.headers):
            # Answered with 304, it would bring nothing for others.
            alone, entry = True, None
        else:
            entry = None if entry is not None and not entry.terms.stale_if_error_s else entry
        started = self._flights.start(Flight(key, url, request, sent, entry, why, now), alone=alone)
        return sent if started else request

    def _is_usable(self, entry: Entry, request: RequestHead) -> bool:
        return entry.is_for(request) and (entry.terms.authorized or not is_authorized(request))

    def _stale(self, entry: Entry, request: RequestHead, now: float, detail: str) -> Reply:
        return entry.answer(request, now, f"hit; ttl={int(-entry.stale_by(now))}; detail={detail}", self._set.hidden)

    # ---- responses

    def on_response(
        self, request: RequestHead, response: ResponseHead
    ) -> ResponseHead | Reply | Coroutine[Any, Any, ResponseHead]:
        """Return the response, or the stored one that it says is still good, or is better than an error."""
        if request.method not in _SAFE and 200 <= response.status < 400:
            urls = self._changed_urls(request, response)
            if self._shared is not None:
                return self._forget_shared(self._shared, urls, response)
            for url in urls:
                self._forget(url)
            return self._told(response, "fwd=method")
        flight = self._flights.of(request)
        if flight is None:
            return self._told(response, f"fwd={self._why_not(request) or 'uri-miss'}")
        now = self.clock()
        if flight.stale is not None:
            if response.status == 304 and flight.sent is not flight.came:
                return self._validated(flight, flight.stale, response, now)
            if response.status in _ERRORS and flight.stale.stale_by(now) < flight.stale.terms.stale_if_error_s:
                self._failing.put(flight.url, now + _FAILING_S)
                reply = self._stale(flight.stale, flight.came, now, f"stale-if-error; fwd-status={response.status}")
                self._flights.land(flight, None)
                return reply
        entry = self._entry(flight, response, now)
        if entry is None:
            self._pass(flight, now)
            return self._told(response, f"fwd={flight.why}")
        flight.draft = (response, entry)
        if _has_no_body(response):
            self._store(flight, entry)
        return self._told(response, f"fwd={flight.why}; stored")

    def on_response_stream(self, request: RequestHead, response: ResponseHead) -> BodyStream | None:
        """Return what copies the body into the store, None when it is not stored."""
        flight = self._flights.of(request)
        if flight is None or _has_no_body(response):
            return None
        draft = flight.draft
        entry = draft[1] if draft is not None and draft[0] is response else self._entry(flight, response, self.clock())
        if entry is None:
            return None

        def done(whole: Entry | None) -> None:
            if whole is None:
                self._pass(flight, self.clock())
            else:
                self._store(flight, whole)

        return Copy(entry, self._set.most_bytes, _length(response), done)

    def on_done(self, request: RequestHead, done: Done) -> None:
        """Let go of those who wait for a request that is over and brought nothing."""
        flight = self._flights.of(request)
        if flight is not None:
            if done.status in _ERRORS:
                self._failing.put(flight.url, self.clock() + _FAILING_S)
            self._flights.land(flight, None)

    # ---- storing

    def _entry(self, flight: Flight, response: ResponseHead, now: float) -> Entry | None:
        """Return what is stored of a response, without its body; None when nothing is."""
        if flight.came.method != "GET":
            return None
        terms = terms_of(flight.came, response, self._set.defaults)
        if terms is None or (_length(response) or 0) > self._set.most_bytes:
            return None
        headers = storable_headers(response.headers)
        if response.header("date") is None:
            # RFC 9110, 6.6.1: whoever stores a response without a date gives it one.
            headers += (("date", formatdate(now, usegmt=True)),)
        listed = [name for name in directives.names(directives.values(headers, "vary")) if name not in OF_ADDRESS]
        vary = tuple([(name, directives.values(flight.came.headers, name).strip()) for name in (*OF_ADDRESS, *listed)])
        tags = sorted(
            {
                tag
                for name in self._set.tag_headers
                for tag in directives.values(headers, name).lower().replace(",", " ").split()
            }
        )
        age_s = initial_age_s(response, now, max(0.0, now - flight.at))
        return Entry(flight.url, flight.came.route, vary, response.status, headers, b"", now, age_s, terms, tuple(tags))

    def _store(self, flight: Flight, entry: Entry) -> None:
        now = self.clock()
        # Something changed it while it was on its way: it may be what was there before.
        if flight.at > max(self._dropped.get(flight.url, 0.0), self._all_dropped_at):
            self._varies.put(flight.url, tuple([name for name, _ in entry.vary]))
            self._failing.drop(flight.url)
            if self._shared is None:
                self._memory.put(entry)
            else:
                try:
                    self.context.spawn(self._shared.put(entry), "store a response")
                except RuntimeError:
                    self.context.log.warning(
                        "A response was not stored: Redis takes too long to store those before it."
                    )
        if entry.stale_by(now) < 0 and not entry.terms.validate:
            self._passing.drop(self._key(flight.came, flight.url))
            self._flights.land(flight, entry)
        else:
            # Stored to be asked about: each request has to ask for itself, and none has to wait.
            self._pass(flight, now)

    def _validated(self, flight: Flight, stale: Entry, response: ResponseHead, now: float) -> ResponseHead | Reply:
        """Return the stored response, which the service says is still good."""
        head = stale.freshened(response, stale.terms, now, initial_age_s(response, now, max(0.0, now - flight.at)))
        terms = terms_of(flight.came, ResponseHead(head.status, head.headers), self._set.defaults)
        if terms is None:
            # Still good, but not for storing, or not by this request: this client gets it, the next one asks anew.
            self._pass(flight, now)
            return head.answer(flight.came, now, f"fwd={flight.why}; fwd-status=304", self._set.hidden)
        entry = stale.freshened(response, terms, now, head.age_s)
        self._store(flight, entry)
        return entry.answer(flight.came, now, f"fwd={flight.why}; fwd-status=304; stored", self._set.hidden)

    def _pass(self, flight: Flight, now: float) -> None:
        """Let equal requests go on side by side for a while: what this one brought is for nobody else."""
        if self._flights.find(flight.key, now) is flight:
            # Under the key that such requests have from now on: the response may have said what it varies by.
            self._passing.put(self._key(flight.came, flight.url), now + _PASSING_S)
        self._flights.land(flight, None)

    # ---- forgetting

    def _changed_urls(self, request: RequestHead, response: ResponseHead) -> list[str]:
        """Return what an unsafe request changed: its URL, and those that its response names on the same host (RFC 9111, 4.4)."""
        urls = {self._url(request)}
        here = f"https://{request.host}{request.path}"
        for name in ("location", "content-location"):
            named = response.header(name)
            if named:
                try:
                    parts = urlsplit(urljoin(here, named))
                    host = parts.hostname
                except ValueError:
                    continue
                if host == request.host:
                    urls.add(url_of(host, parts.path or "/", parts.query, self._set.ignored, ordered=self._set.ordered))
        return sorted(urls)

    async def _forget_shared(self, shared: Shared, urls: list[str], response: ResponseHead) -> ResponseHead:
        for url in urls:
            self._dropped.put(url, self.clock())
            await shared.drop_url(url)
        return self._told(response, "fwd=method")

    def _forget(self, url: str) -> int:
        self._dropped.put(url, self.clock())
        return self._memory.drop_url(url)

    async def _purge(self, wanted: purging.Purge) -> Reply:
        store, shared = self._memory, self._shared
        purged = 0
        if wanted.everything or wanted.tags:
            self._all_dropped_at = self.clock()
        if wanted.everything:
            purged += await shared.drop_all() if shared is not None else store.drop_all()
        for tag in wanted.tags:
            purged += await shared.drop_tag(tag) if shared is not None else store.drop_tag(tag)
        for host, path, query in wanted.urls:
            url = url_of(host, path, query, self._set.ignored, ordered=self._set.ordered)
            self._dropped.put(url, self.clock())
            purged += await shared.drop_url(url) if shared is not None else store.drop_url(url)
        if shared is not None and shared.is_down:
            return purging.problem(
                503, "PurgeFailed", "Redis is not available; purge again when it is.", (("retry-after", "1"),)
            )
        return purging.answer(purged, "worker" if shared is None else "shared")

    # ---- what requests are

    def _why_not(self, request: RequestHead) -> str:
        """Return why the cache has nothing to do with a request, as the `fwd` of Cache-Status; empty when it has."""
        if request.method not in ("GET", "HEAD"):
            return "method"
        for name, value in request.headers:
            # A range is the service's to cut; a GET with a body is no question that its URL answers; an upgrade is no request.
            if name in ("range", "if-match", "if-unmodified-since", "upgrade", "transfer-encoding"):
                return "bypass"
            if name == "content-length" and value.strip() != "0":
                return "bypass"
            if name == "cookie" and self._is_skipped(value):
                return "bypass"
        return ""

    def _is_skipped(self, cookies: str) -> bool:
        skipped = self._set.skipped_cookies
        return bool(skipped) and any(pair.partition("=")[0].strip() in skipped for pair in cookies.split(";"))

    def _url(self, request: RequestHead) -> str:
        return url_of(request.host, request.path, request.query, self._set.ignored, ordered=self._set.ordered)

    def _key(self, request: RequestHead, url: str) -> Key:
        """Return what equal requests have in common, as far as it is known before the response."""
        names = self._varies.get(url, (*OF_ADDRESS, "accept-encoding"))
        return (request.method, request.route, url, *[directives.values(request.headers, name) for name in names])

    def _told(self, response: ResponseHead, status: str) -> ResponseHead:
        hidden = self._set.hidden
        headers = tuple([pair for pair in response.headers if pair[0] not in hidden]) if hidden else response.headers
        return ResponseHead(response.status, (*headers, ("cache-status", f"{CACHE}; {status}")))


def _satisfies(entry: Entry, asked: directives.Directives, stale_s: float, now: float) -> bool:
    """Return whether a stored response will do for what the client asks of its age (RFC 9111, 5.2.1)."""
    if "no-cache" in asked or entry.terms.validate:
        return False
    most_s, fresh_s = directives.seconds(asked, "max-age"), directives.seconds(asked, "min-fresh")
    if (most_s is not None and entry.age(now) > most_s) or (fresh_s is not None and stale_s + fresh_s > 0):
        return False
    if stale_s < 0:
        return True
    if "max-stale" not in asked or not entry.terms.stale_if_error_s:
        # Clients may ask for something stale; whether the service lets it be used so, it says by stale-if-error.
        return False
    text = asked["max-stale"]
    return stale_s < entry.terms.stale_if_error_s and (
        text is None or stale_s <= (directives.seconds(asked, "max-stale") or 0.0)
    )


def _length(response: ResponseHead) -> int | None:
    text = response.header("content-length") or ""
    return int(text) if text.isascii() and text.isdigit() else None


def _has_no_body(response: ResponseHead) -> bool:
    return response.status in (204, 205, 304) or response.header("content-length") == "0"


def _not_cached() -> Reply:
    detail = "The request takes a stored response only, and there is none."
    return purging.problem(504, "NotCached", detail, (("cache-status", f"{CACHE}; fwd=request"),))
