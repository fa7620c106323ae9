"""The plugin `response-cache`: what RFC 9111 lets a shared cache store and use, who waits for whom, and what makes it forget."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Done, Headers, PluginConfigError, Reply, RequestHead, ResponseHead
from nexus_plugin_response_cache import ResponseCache, directives
from nexus_plugin_response_cache.entries import Entry, pack, unpack, url_of
from nexus_plugin_response_cache.freshness import Defaults, Terms, initial_age_s, terms_of
from nexus_plugin_response_cache.memory import Memory
from nexus_sdk.testing import FakeContext

NOW = 1_800_000_000.0
DATE = ("date", formatdate(NOW, usegmt=True))
TOKEN = "t" * 16


class Bed:
    """A cache, a clock and a service that counts what reaches it."""

    def __init__(self, kit: Any) -> None:
        self.kit = kit
        self.now = NOW
        kit.plugin.clock = lambda: self.now
        self.asked: list[RequestHead] = []
        self.status = 200
        self.headers: Headers = (("cache-control", "max-age=60"), DATE)
        self.body = b"body"

    def upstream(self, request: RequestHead, _: bytes) -> tuple[ResponseHead, bytes]:
        self.asked.append(request)
        dated = tuple([("date", formatdate(self.now, usegmt=True)) if pair == DATE else pair for pair in self.headers])
        return ResponseHead(self.status, dated), self.body

    async def get(
        self, path: str = "/a", method: str = "GET", *headers: tuple[str, str], query: str = "", route: str = "r"
    ) -> Any:
        head = RequestHead(method, path, query, "shop.example", headers, route=route)
        made = await self.kit.roundtrip(head, upstream=self.upstream)
        if made.request is not None:
            await self.kit.done(made.request, Done(made.status))
        await self.kit.context.settle()
        return made

    async def status_of(self, *args: Any, **more: Any) -> str:
        """Return a GET's Cache-Status without the cache's name."""
        made = await self.get(*args, **more)
        said: str = made.header("cache-status") or ""
        return said.removeprefix("nexus; ")


def bed_of(make: Any, context: FakeContext | None = None, **config: Any) -> Bed:
    return Bed(make(ResponseCache, config, context))


# ---- storing and using


async def test_a_fresh_response_is_answered_from_the_store_with_its_age(make: Any) -> None:
    bed = bed_of(make)
    bed.headers += (("etag", '"1"'), ("x-a", "1"), ("connection", "x-hop"), ("x-hop", "1"))
    first = await bed.get()
    assert (first.body, first.header("cache-status")) == (b"body", "nexus; fwd=uri-miss; stored")
    bed.now += 25
    second = await bed.get()
    assert (second.status, second.body, second.request) == (200, b"body", None)
    assert dict(second.headers) == {
        "cache-control": "max-age=60", "date": DATE[1], "etag": '"1"', "x-a": "1", "age": "25", "cache-status": "nexus; hit; ttl=35",
    }  # fmt: skip
    bed.now += 35
    assert (await bed.get()).request is not None
    assert len(bed.asked) == 2


@pytest.mark.parametrize(
    ("headers", "status", "asked", "lifetime_s"),
    [
        ("max-age=60", 200, "", 60), ("MAX-AGE=60", 200, "", 60), ('max-age="60"', 200, "", 60), ("max-age=60, s-maxage=5", 200, "", 5),
        ("max-age=60, max-age=60", 200, "", 60), ("max-age=60, max-age=5", 200, "", None), ("max-age=x", 200, "", None),
        ("max-age=-1", 200, "", None),
        ("max-age=99999999999999999999", 200, "", 86400), ("private", 200, "", None), ("private=x, max-age=9", 200, "", None),
        ("no-store, max-age=9", 200, "", None), ("no-store, must-understand, max-age=9", 200, "", 9),
        ("no-store, must-understand, max-age=9", 299, "", None),
        ("public, max-age=9", 200, "no-store", None), ("max-age=9", 206, "", None), ("max-age=9", 304, "", None), ("max-age=9", 500, "", 9),
        ("max-age=9", 302, "", 9), ("max-age=9", 404, "", 9), ("", 200, "", None), ('x="a, max-age=5", max-age=9', 200, "", 9),
        ("max-age=0", 200, "", None), ("max-age=0, stale-if-error=5", 200, "", 0), (",,max-age=9,,", 200, "", 9),
    ],
)  # fmt: skip
def test_what_may_be_stored_and_for_how_long(headers: str, status: int, asked: str, lifetime_s: float | None) -> None:
    request = RequestHead("GET", "/", headers=(("cache-control", asked),) if asked else ())
    terms = terms_of(request, ResponseHead(status, (("cache-control", headers),) if headers else ()), Defaults())
    assert (None if terms is None else terms.lifetime_s) == lifetime_s


@pytest.mark.parametrize(
    ("headers", "stored"),
    [
        ((("set-cookie", "a=b"),), False), ((("vary", "*"),), False), ((("vary", "accept, *"),), False),
        ((("vary", "accept"),), True), ((), True),
    ],
)  # fmt: skip
def test_what_is_for_one_client_is_not_stored(headers: Headers, stored: bool) -> None:
    response = ResponseHead(200, (("cache-control", "public, max-age=9"), *headers))
    assert (terms_of(RequestHead("GET", "/"), response, Defaults()) is not None) is stored


@pytest.mark.parametrize(
    ("control", "stored"),
    [("max-age=9", False), ("public, max-age=9", True), ("s-maxage=9", True), ("must-revalidate, max-age=9", True)],
)
@pytest.mark.parametrize("auth", [("authorization", "Bearer x"), ("x-consumer-name", "app")])
async def test_responses_to_credentials_are_shared_only_if_they_say_so(
    make: Any, control: str, stored: bool, auth: tuple[str, str]
) -> None:
    bed = bed_of(make)
    bed.headers = (("cache-control", control),)
    await bed.get("/a", "GET", auth)
    assert ("hit" in await bed.status_of("/a", "GET", auth)) is stored
    bed.headers = (("cache-control", "max-age=9"),)
    await bed.get("/b")
    assert "hit" not in await bed.status_of("/b", "GET", auth), (
        "what was public by default is not for those with credentials"
    )


@pytest.mark.parametrize(
    ("expires", "lifetime_s"),
    [
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW - 60, usegmt=True), None),
        ("0", None),
        ("nonsense", None),
    ],
)
def test_expires_counts_where_nothing_better_is_said(expires: str, lifetime_s: float | None) -> None:
    terms = terms_of(RequestHead("GET", "/"), ResponseHead(200, (DATE, ("expires", expires))), Defaults())
    assert (None if terms is None else terms.lifetime_s) == lifetime_s


def test_age_is_the_most_of_what_date_and_age_say() -> None:
    old = ("date", formatdate(NOW - 30, usegmt=True))
    assert initial_age_s(ResponseHead(200, (old,)), NOW, 0) == 30
    assert initial_age_s(ResponseHead(200, (old, ("age", "50"))), NOW, 2) == 52
    assert initial_age_s(ResponseHead(200, (("age", "x"),)), NOW, 2) == 2
    assert initial_age_s(ResponseHead(200, (("date", formatdate(NOW + 99, usegmt=True)),)), NOW, 0) == 0


@given(st.text(max_size=80))
def test_no_cache_control_breaks_the_parser(text: str) -> None:
    found = directives.parse(text)
    for name in found:
        assert (directives.seconds(found, name) or 0.0) >= 0.0
    directives.date(text)


async def test_default_and_most_seconds_are_as_configured(make: Any) -> None:
    bed = bed_of(make, defaultSeconds=30, maxSeconds=40)
    bed.headers = ()
    await bed.get("/a")
    assert await bed.status_of("/a") == "hit; ttl=30"
    bed.headers = (("cache-control", "max-age=500"),)
    await bed.get("/b")
    assert await bed.status_of("/b") == "hit; ttl=40"


async def test_vary_keeps_variants_apart(make: Any) -> None:
    bed = bed_of(make)
    bed.headers += (("vary", "Accept-Language, X-B"),)
    for language in ("de", "en"):
        bed.body = language.encode()
        await bed.get("/a", "GET", ("accept-language", language))
    for language in ("de", "en"):
        made = await bed.get("/a", "GET", ("accept-language", language), ("x-c", "1"))
        assert (made.body, made.request) == (language.encode(), None)
    assert (await bed.get("/a", "GET", ("accept-language", "fr"))).request is not None
    assert (await bed.get("/a", "GET", ("accept-language", "de"), ("x-b", "1"))).request is not None


async def test_routes_hosts_paths_and_queries_are_apart_and_configured_parameters_are_not(make: Any) -> None:
    bed = bed_of(make, ignoreQuery=["utm_*", "fbclid"], sortQuery=True)
    await bed.get("/a", query="b=1&a=2&utm_source=x")
    assert "hit" in await bed.status_of("/a", query="a=2&utm_medium=y&b=1&fbclid=z")
    for more in ({"query": "a=2"}, {"query": "a=2&b=1", "route": "other"}):
        assert "hit" not in await bed.status_of("/a", **more)
    assert url_of("h", "/a", "b&a") != url_of("h", "/a", "a&b")
    assert url_of("h", "/a", "%75tm_x=1", ["utm_*"]) == "h/a"


@pytest.mark.parametrize("name", ["host", "x-forwarded-host", "x-forwarded-proto"])
async def test_what_a_service_wrote_of_its_address_is_for_that_address_alone(make: Any, name: str) -> None:
    bed = bed_of(make)
    await bed.get("/a", "GET", (name, "shop.example:1337"))
    assert "hit" not in await bed.status_of("/a", "GET", (name, "shop.example")), "a redirect may name the other port"
    assert "hit" in await bed.status_of("/a", "GET", (name, "shop.example:1337"))
    await bed.get("/a", "POST", (name, "shop.example"))
    assert "hit" not in await bed.status_of("/a", "GET", (name, "shop.example:1337")), "a change forgets them all"


async def test_head_is_answered_from_what_get_stored_and_stores_nothing(make: Any) -> None:
    bed = bed_of(make)
    assert "stored" not in await bed.status_of("/a", "HEAD")
    await bed.get("/a")
    assert await bed.status_of("/a", "HEAD") == "hit; ttl=60"


@pytest.mark.parametrize(
    "header",
    [
        ("range", "bytes=0-1"),
        ("if-match", '"1"'),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("cookie", "a=b; sid=1"),
    ],
)
async def test_requests_that_a_stored_response_cannot_answer_are_left_alone(make: Any, header: tuple[str, str]) -> None:
    bed = bed_of(make, skipCookies=["sid"])
    await bed.get("/a")
    assert await bed.status_of("/a", "GET", header) == "fwd=bypass"
    assert await bed.status_of("/a", "POST") == "fwd=method"
    assert (await bed.get("/c", "GET", ("cookie", "other=1"))).header("cache-status") == "nexus; fwd=uri-miss; stored"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("no-cache", "fwd=request; stored"), ("max-age=10", "fwd=stale; stored"), ("max-age=20", "hit; ttl=40"),
        ("min-fresh=41", "fwd=stale; stored"),
        ("min-fresh=39", "hit; ttl=40"), ("only-if-cached", "hit; ttl=40"), ("max-age=x", "fwd=stale; stored"),
    ],
)  # fmt: skip
async def test_what_clients_ask_of_a_stored_response(make: Any, asked: str, said: str) -> None:
    for obey in (True, False):
        bed = bed_of(make, obeyClients=obey)
        await bed.get()
        bed.now += 20
        assert await bed.status_of("/a", "GET", ("cache-control", asked)) == (said if obey else "hit; ttl=40")


async def test_only_if_cached_without_one_is_504_and_pragma_counts_alone(make: Any) -> None:
    bed = bed_of(make)
    assert (await bed.get("/a", "GET", ("cache-control", "only-if-cached"))).status == 504
    await bed.get()
    assert await bed.status_of("/a", "GET", ("pragma", "no-cache")) == "fwd=request; stored"
    assert await bed.status_of("/a", "GET", ("pragma", "no-cache"), ("cache-control", "max-age=9")) == "hit; ttl=60"


# ---- validation


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ([("if-none-match", '"1"')], True), ([("if-none-match", 'W/"1"')], True), ([("if-none-match", '"0", "1"')], True),
        ([("if-none-match", "*")], True),
        ([("if-none-match", '"2"')], False), ([("if-none-match", '"a,"1""')], False),
        ([("if-modified-since", formatdate(NOW - 100, usegmt=True))], True),
        ([("if-modified-since", formatdate(NOW - 101, usegmt=True))], False), ([("if-modified-since", "x")], False),
        ([("if-none-match", '"2"'), ("if-modified-since", formatdate(NOW, usegmt=True))], False),
    ],
)  # fmt: skip
async def test_clients_that_have_it_get_304_from_the_store(
    make: Any, headers: list[tuple[str, str]], known: bool
) -> None:
    bed = bed_of(make)
    bed.headers += (
        ("etag", '"1"'),
        ("last-modified", formatdate(NOW - 100, usegmt=True)),
        ("content-type", "a/b"),
        ("vary", "x"),
    )
    await bed.get()
    made = await bed.get("/a", "GET", *headers)
    assert made.request is None
    assert made.status == (304 if known else 200)
    if known:
        assert made.body == b""
        assert {name for name, _ in made.headers} == {"cache-control", "date", "etag", "vary", "age", "cache-status"}


async def test_a_stale_response_is_asked_about_and_freshened(make: Any) -> None:
    bed = bed_of(make)
    modified = formatdate(NOW - 100, usegmt=True)
    bed.headers += (("etag", '"1"'), ("last-modified", modified), ("content-type", "text/x"), ("x-a", "old"))
    await bed.get()
    bed.now += 100
    bed.status, bed.headers = (
        304,
        (("cache-control", "max-age=30"), ("etag", '"1"'), ("x-a", "new"), ("content-type", "no")),
    )
    made = await bed.get("/a", "GET", ("accept", "*/*"))
    assert bed.asked[-1].headers == (("accept", "*/*"), ("if-none-match", '"1"'), ("if-modified-since", modified))
    assert (made.status, made.body, made.header("x-a"), made.header("content-type")) == (200, b"body", "new", "text/x")
    assert made.header("cache-status") == "nexus; fwd=stale; fwd-status=304; stored"
    assert await bed.status_of() == "hit; ttl=30"


async def test_a_plugin_behind_it_may_change_the_request(make: Any) -> None:
    """Its request is known by its notes: what hooks get may be a copy, as for a plugin that may not see all headers."""
    bed = bed_of(make)
    bed.headers += (("etag", '"1"'),)
    await bed.get()
    bed.now += 100
    request = await bed.kit.request(RequestHead("GET", "/a", "", "shop.example", route="r"))
    assert request.header("if-none-match") == '"1"'
    copy = request.with_header("x-other", "1")
    reply = await bed.kit.response(copy, ResponseHead(304, (("cache-control", "max-age=60"), ("etag", '"1"'))))
    assert (reply.status, reply.body) == (200, b"body")


async def test_a_client_with_conditions_of_its_own_gets_its_own_answer(make: Any) -> None:
    bed = bed_of(make)
    bed.headers += (("etag", '"1"'),)
    await bed.get()
    bed.now += 100
    bed.status = 304
    mine = await bed.get("/a", "GET", ("if-none-match", '"1"'))
    assert (mine.status, bed.asked[-1].headers) == (304, (("if-none-match", '"1"'),))
    bed.now += 100
    other = await bed.get("/a", "GET", ("if-none-match", '"0"'))
    assert (other.status, other.body) == (200, b"body")
    assert await bed.status_of() == "hit; ttl=60"


async def test_a_304_to_a_clients_own_question_is_passed_on_and_not_stored(make: Any) -> None:
    bed = bed_of(make)
    bed.status = 304
    made = await bed.get("/a", "GET", ("if-none-match", '"9"'))
    assert (made.status, made.header("cache-status")) == (304, "nexus; fwd=uri-miss")
    bed.status = 200
    assert await bed.status_of() == "fwd=uri-miss; stored"


async def test_no_cache_is_stored_and_asked_about_each_time(make: Any) -> None:
    bed = bed_of(make)
    bed.headers = (("cache-control", "no-cache, max-age=60"), ("etag", '"1"'))
    await bed.get()
    bed.status = 304
    for _ in range(2):
        made = await bed.get()
        assert (made.status, made.header("cache-status")) == (200, "nexus; fwd=stale; fwd-status=304; stored")


async def test_a_changed_response_takes_the_stale_ones_place(make: Any) -> None:
    bed = bed_of(make)
    bed.headers += (("etag", '"1"'),)
    await bed.get()
    bed.now += 100
    bed.body = b"new"
    assert (await bed.get()).body == b"new"
    assert (await bed.get()).body == b"new"
    assert len(bed.kit.plugin._memory) == 1


# ---- stale


async def test_while_one_request_asks_the_others_get_the_stale_response(make: Any) -> None:
    bed = bed_of(make)
    bed.headers = (("cache-control", "max-age=60, stale-while-revalidate=30"), DATE)
    await bed.get()
    bed.now += 70
    head = RequestHead("GET", "/a", "", "shop.example", route="r")
    leader = await bed.kit.request(head)
    assert isinstance(leader, RequestHead)
    other = await bed.get()
    assert (other.request, other.header("cache-status")) == (None, "nexus; hit; ttl=-10; detail=stale-while-revalidate")
    bed.now += 30
    task = asyncio.create_task(bed.kit.request(replace_path(head)))
    assert isinstance(await task, RequestHead), "another path waits for nothing"
    await bed.kit.done(leader, Done(499))
    assert (await bed.get()).request is not None


def replace_path(head: RequestHead) -> RequestHead:
    return replace(head, path="/other")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_error_is_answered_with_the_stale_response_and_the_service_left_alone(make: Any, status: int) -> None:
    bed = bed_of(make, staleIfErrorSeconds=100)
    await bed.get()
    bed.now += 70
    bed.status = status
    made = await bed.get()
    assert (made.status, made.body) == (200, b"body")
    assert made.header("cache-status") == f"nexus; hit; ttl=-10; detail=stale-if-error; fwd-status={status}"
    assert await bed.status_of() == "hit; ttl=-10; detail=stale-if-error"
    assert len(bed.asked) == 2
    bed.now += 5
    await bed.get()
    assert len(bed.asked) == 3
    bed.now += 100
    assert (await bed.get()).status == status


async def test_when_the_gateway_cannot_reach_the_service_the_next_requests_get_the_stale_response(make: Any) -> None:
    bed = bed_of(make, staleIfErrorSeconds=100)
    await bed.get()
    bed.now += 70
    leader = await bed.kit.request(RequestHead("GET", "/a", "", "shop.example", route="r"))
    await bed.kit.done(leader, Done(502, reason="UpstreamUnreachable"))
    assert await bed.status_of() == "hit; ttl=-10; detail=stale-if-error"


@pytest.mark.parametrize("control", ["max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60"])
async def test_responses_that_forbid_stale_use_are_not_used_stale(make: Any, control: str) -> None:
    bed = bed_of(make, staleIfErrorSeconds=100, staleWhileRevalidateSeconds=100)
    bed.headers = (("cache-control", control), DATE)
    await bed.get()
    bed.now += 70
    bed.status = 503
    assert (await bed.get()).status == 503


async def test_clients_get_something_stale_only_where_the_service_lets_them(make: Any) -> None:
    bed = bed_of(make)
    bed.headers = (("cache-control", "max-age=60, stale-if-error=100"), DATE)
    await bed.get("/a")
    bed.headers = (("cache-control", "max-age=60"), DATE)
    await bed.get("/b")
    bed.now += 70
    assert await bed.status_of("/a", "GET", ("cache-control", "max-stale=20")) == "hit; ttl=-10; detail=max-stale"
    assert "hit" not in await bed.status_of("/a", "GET", ("cache-control", "max-stale=5"))
    assert "hit" not in await bed.status_of("/b", "GET", ("cache-control", "max-stale"))


# ---- many at once


async def started(bed: Bed, count: int, *headers: tuple[str, str]) -> list[asyncio.Task[Any]]:
    tasks = [
        asyncio.create_task(bed.kit.request(RequestHead("GET", "/a", "", "shop.example", headers, route="r")))
        for _ in range(count)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def bring(bed: Bed, leader: RequestHead, body: bytes = b"body") -> None:
    """Let a response come back for a request."""
    response = ResponseHead(bed.status, bed.headers)
    await bed.kit.response(leader, response)
    await bed.kit.response_stream(leader, response, [body[:2], body[2:]])
    await bed.kit.done(leader, Done(bed.status))


async def test_of_equal_requests_one_goes_on_and_the_others_get_what_it_brings(make: Any) -> None:
    bed = bed_of(make, waitSeconds=10)
    tasks = await started(bed, 20)
    assert [task.done() for task in tasks] == [True] + [False] * 19
    await bring(bed, tasks[0].result())
    answers = await asyncio.gather(*tasks[1:])
    assert {(each.status, each.body, dict(each.headers)["cache-status"]) for each in answers} == {
        (200, b"body", "nexus; fwd=uri-miss; collapsed")
    }
    assert len(bed.kit.plugin._flights) == 0


@pytest.mark.parametrize(
    "headers",
    [(("cache-control", "private"),), (("cache-control", "max-age=9"), ("set-cookie", "a=b")), (("etag", '"1"'),)],
)
async def test_what_is_for_one_client_alone_is_given_to_no_other_and_holds_nobody_back(
    make: Any, headers: Headers
) -> None:
    bed = bed_of(make, waitSeconds=10)
    bed.headers = headers
    tasks = await started(bed, 5)
    await bring(bed, tasks[0].result())
    assert all(isinstance(each, RequestHead) for each in await asyncio.gather(*tasks[1:]))
    assert all(task.done() for task in await started(bed, 5)), "for a while equal requests go on side by side"
    bed.now += 10
    leader, other = await started(bed, 2)
    assert not other.done()
    await bring(bed, leader.result())
    assert isinstance(await other, RequestHead)


async def test_when_the_request_on_its_way_is_lost_another_goes_on(make: Any) -> None:
    bed = bed_of(make, waitSeconds=10)
    tasks = await started(bed, 3)
    await bed.kit.done(tasks[0].result(), Done(499))
    for _ in range(5):
        await asyncio.sleep(0)
    assert sorted(task.done() for task in tasks) == [False, True, True]
    leader = next(task for task in tasks[1:] if task.done())
    await bring(bed, leader.result())
    await asyncio.gather(*tasks)


async def test_nobody_waits_longer_than_configured(make: Any) -> None:
    bed = bed_of(make, waitSeconds=0)
    tasks = await started(bed, 2)
    assert all(isinstance(each, RequestHead) for each in await asyncio.gather(*tasks))


async def test_a_request_that_is_never_heard_of_again_holds_nobody_back_for_ever(make: Any) -> None:
    bed = bed_of(make, waitSeconds=10)
    await started(bed, 1)
    bed.now += 61
    assert (await started(bed, 1))[0].done()


async def test_requests_with_credentials_or_other_wishes_wait_for_nobody(make: Any) -> None:
    bed = bed_of(make, waitSeconds=10)
    await started(bed, 1)
    for header in (
        ("authorization", "x"),
        ("x-consumer-name", "x"),
        ("cache-control", "no-cache"),
        ("cache-control", "no-store"),
    ):
        assert (await started(bed, 1, header))[0].done(), header


async def test_a_body_that_is_cut_short_or_too_long_is_not_stored(make: Any) -> None:
    bed = bed_of(make, maxBodyBytes=10)
    bed.headers += (("content-length", "9"),)
    await bed.get("/short")
    bed.headers = bed.headers[:-1]
    bed.body = b"x" * 11
    assert (await bed.get("/long")).body == bed.body
    bed.headers += (("content-length", "11"),)
    assert "stored" not in await bed.status_of("/stated")
    assert len(bed.kit.plugin._memory) == 0
    broken = await bed.kit.request(RequestHead("GET", "/broken", "", "shop.example", route="r"))
    stream = bed.kit.plugin.on_response_stream(broken, ResponseHead(200, (("cache-control", "max-age=9"),)))
    stream.feed(b"half")
    await bed.kit.done(broken, Done(200))
    assert (len(bed.kit.plugin._memory), len(bed.kit.plugin._flights)) == (0, 0)


async def test_responses_without_a_body_are_stored(make: Any) -> None:
    bed = bed_of(make)
    bed.body, bed.headers = b"", (*bed.headers, ("content-length", "0"), ("location", "/b"))
    bed.status = 301
    await bed.get()
    made = await bed.get()
    assert (made.status, made.body, made.header("location"), made.request) == (301, b"", "/b", None)


# ---- forgetting


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PURGE"])
async def test_a_change_that_succeeds_makes_it_forget_what_it_names(make: Any, method: str) -> None:
    bed = bed_of(make)
    for path in ("/a", "/b", "/c", "/d"):
        await bed.get(path)
    bed.headers += (("location", "b"), ("content-location", "https://shop.example/c"))
    await bed.get("/a", method)
    said = [await bed.status_of(path) for path in ("/a", "/b", "/c", "/d")]
    assert ["hit" in each for each in said] == [False, False, False, True]


async def test_failed_changes_and_other_hosts_make_it_forget_nothing(make: Any) -> None:
    bed = bed_of(make)
    await bed.get("/a")
    await bed.get("/b")
    bed.status = 403
    await bed.get("/a", "POST")
    bed.status = 200
    bed.headers += (("location", "https://evil.example/b"), ("content-location", "http://[broken"))
    await bed.get("/x", "POST")
    assert ["hit" in await bed.status_of(path) for path in ("/a", "/b")] == [True, True]


async def test_what_was_on_its_way_before_a_change_is_not_stored(make: Any) -> None:
    bed = bed_of(make)
    leader = await bed.kit.request(RequestHead("GET", "/a", "", "shop.example", route="r"))
    bed.now += 1
    await bed.get("/a", "POST")
    bed.now += 1
    await bring(bed, leader)
    assert "hit" not in await bed.status_of()


async def purge(bed: Bed, query: str, token: str = TOKEN, method: str = "POST") -> Any:
    return await bed.get("/.purge", method, ("authorization", f"Bearer {token}"), query=query)


async def tagged(bed: Bed) -> None:
    for path, tags in (("/a", "red, Blue"), ("/b", "blue"), ("/c", "green")):
        bed.headers = (("cache-control", "max-age=60"), ("cache-tag", tags), ("surrogate-key", "all x"))
        made = await bed.get(path)
        assert (made.header("cache-tag"), made.header("surrogate-key")) == (None, None)


PURGE = {"path": "/.purge", "token": TOKEN}


@pytest.mark.parametrize(
    ("query", "purged", "left"),
    [("tag=BLUE", 2, "c"), ("tag=red&tag=green", 2, "b"), ("tag=x", 3, ""), ("url=/b", 1, "ac"),
    ("url=https://Shop.example/c&url=/a", 2, "b"),
     ("url=https://other.example/a", 0, "abc"), ("all=true", 3, ""), ("tag=none", 0, "abc")],
)  # fmt: skip
async def test_purging_removes_what_is_named(make: Any, query: str, purged: int, left: str) -> None:
    bed = bed_of(make, purge=PURGE)
    await tagged(bed)
    bed.now += 1
    made = await purge(bed, query)
    assert (made.status, json.loads(made.body)) == (200, {"purged": purged, "scope": "worker"})
    assert "".join([path for path in "abc" if "hit" in await bed.status_of("/" + path)]) == left


@pytest.mark.parametrize(
    ("query", "token", "method", "status"),
    [("all=true", "wrong", "POST", 401), ("all=true", "", "POST", 401), ("all=true", TOKEN, "GET", 405), ("", TOKEN, "POST", 400),
     ("all=yes", TOKEN, "POST", 400), ("&".join(["tag=a"] * 101), TOKEN, "POST", 400), ("url=http://[x", TOKEN, "POST", 400),
     ("tag=%20", TOKEN, "POST", 400)],
)  # fmt: skip
async def test_purges_that_are_not_allowed_or_say_nothing_remove_nothing(
    make: Any, query: str, token: str, method: str, status: int
) -> None:
    bed = bed_of(make, purge=PURGE)
    await bed.get("/a")
    assert (await purge(bed, query, token, method)).status == status
    assert "hit" in await bed.status_of("/a")


async def test_without_a_path_there_is_no_purging_and_without_a_token_no_path(make: Any) -> None:
    bed = bed_of(make)
    assert (await purge(bed, "all=true")).request is not None
    with pytest.raises(PluginConfigError, match=r"config\.purge"):
        make(ResponseCache, {"purge": {"path": "/x"}})


async def test_workers_with_stores_of_their_own_are_warned_of(make: Any, caplog: Any) -> None:
    async with make(ResponseCache, {"purge": PURGE}, FakeContext(workers=2)):
        assert "a purge reaches one of them" in caplog.text


async def test_tags_are_shown_where_that_is_wanted(make: Any) -> None:
    bed = bed_of(make, showTags=True)
    bed.headers += (("cache-tag", "a"),)
    assert [(await bed.get()).header("cache-tag") for _ in range(2)] == ["a", "a"]


# ---- the stores


def entry(
    url: str, body: bytes = b"", vary: tuple[tuple[str, str], ...] = (), tags: tuple[str, ...] = (), at: float = NOW
) -> Entry:
    return Entry(url, "r", vary, 200, (("a", "b"),), body, at, 0.0, Terms(60, 0, 0, False, False), tags)


def test_memory_is_bounded_and_what_was_not_used_longest_goes() -> None:
    memory = Memory(20_000)
    for number in range(8):
        memory.put(entry(f"u{number}", b"x" * 2000))
    assert memory.find("u4", RequestHead("GET", "/", route="r"), NOW) is not None
    for number in range(8, 12):
        memory.put(entry(f"u{number}", b"x" * 2000))
    assert memory.size_bytes <= 20_000
    assert memory.find("u4", RequestHead("GET", "/", route="r"), NOW) is not None
    assert memory.find("u5", RequestHead("GET", "/", route="r"), NOW) is None
    memory.put(entry("big", b"x" * 30_000))
    assert memory.find("big", RequestHead("GET", "/", route="r"), NOW) is None
    assert len(memory) > 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from("xyz"),
            st.sampled_from(["", "t", "u"]),
            st.sampled_from(["put", "url", "tag", "all"]),
        ),
        max_size=40,
    )
)
def test_memory_never_loses_count(steps: list[tuple[str, str, str, str]]) -> None:
    memory = Memory(9000)
    for url, value, tag, step in steps:
        if step == "put":
            memory.put(entry(url, b"x" * 500, (("v", value),), (tag,) if tag else ()))
        elif step == "url":
            memory.drop_url(url)
        elif step == "tag":
            memory.drop_tag(tag)
        else:
            memory.drop_all()
        assert memory.size_bytes == sum(each.size_bytes for each in memory._entries.values()) <= 9000
        assert sum(map(len, memory._by_url.values())) == len(memory)
        assert {key for keys in memory._by_tag.values() for key in keys} <= set(memory._entries)


def test_variants_of_one_url_are_bounded_and_what_is_of_no_more_use_goes() -> None:
    memory = Memory(10_000_000)
    for number in range(200):
        memory.put(entry("u", vary=(("v", str(number)),)))
    assert len(memory) == 64
    assert memory.find("u", RequestHead("GET", "/", route="r"), NOW + 61) is None
    assert len(memory) == 0


def test_entries_survive_packing_and_other_bytes_do_not() -> None:
    made = entry("u", b"a\nb\x00", (("v", "ü"),), ("t",))
    assert unpack(pack(made)) == made
    for data in (
        b"",
        b"{}",
        b"{}\n",
        b"nonsense\n",
        b'{"v": 2}\nbody',
        b"[1]\n",
        b'{"v": 1, "vary": 3}\n',
        pack(made)[5:],
    ):
        assert unpack(data) is None


# ---- Redis


@pytest.mark.connected
async def test_gateways_share_what_is_stored_in_redis(make: Any, redis_url: str) -> None:
    redis = {"url": redis_url, "timeoutSeconds": 5, "prefix": "cache-a"}
    one, two = (bed_of(make, redis=redis, purge=PURGE) for _ in range(2))
    async with one.kit, two.kit:
        one.headers += (("vary", "accept"), ("cache-tag", "t"))
        two.headers = one.headers
        assert await one.status_of("/a", "GET", ("accept", "x")) == "fwd=uri-miss; stored"
        made = await two.get("/a", "GET", ("accept", "x"))
        assert (made.body, made.header("cache-status"), made.request) == (b"body", "nexus; hit; ttl=60", None)
        assert "hit" not in await two.status_of("/a", "GET", ("accept", "y"))
        assert "hit" in await one.status_of("/a", "GET", ("accept", "y"))
        two.now += 1
        assert json.loads((await purge(two, "tag=T")).body) == {"purged": 2, "scope": "shared"}
        assert "hit" not in await one.status_of("/a", "GET", ("accept", "x"))


@pytest.mark.connected
async def test_changes_and_purges_reach_redis(make: Any, redis_url: str) -> None:
    bed = bed_of(make, redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "cache-b"}, purge=PURGE)
    async with bed.kit:
        for path in ("/a", "/b", "/c"):
            await bed.get(path)
        bed.now += 1
        await bed.get("/a", "POST")
        assert json.loads((await purge(bed, "url=/b")).body)["purged"] == 1
        bed.now += 1
        assert ["hit" in await bed.status_of(path) for path in ("/a", "/b", "/c")] == [False, False, True]
        bed.now += 1
        assert json.loads((await purge(bed, "all=true")).body)["purged"] == 3
        client = await bed.kit.context.redis(redis_url)
        assert [key async for key in client.scan_iter("cache-b:*")] == []


@pytest.mark.connected
async def test_every_key_in_redis_ends_by_itself(make: Any, redis_url: str) -> None:
    bed = bed_of(make, redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "cache-c"}, maxSeconds=100)
    async with bed.kit:
        bed.headers += (("cache-tag", "t"), ("etag", '"1"'))
        await bed.get()
        client = await bed.kit.context.redis(redis_url)
        lives = [await client.pttl(key) async for key in client.scan_iter("cache-c:*")]
        assert len(lives) == 3
        assert all(0 < life <= (100 + 2 * 86400) * 1000 for life in lives)


@pytest.mark.connected
async def test_foreign_bytes_in_redis_are_a_miss(make: Any, redis_url: str) -> None:
    bed = bed_of(make, redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "cache-d"})
    async with bed.kit:
        await bed.get()
        client = await bed.kit.context.redis(redis_url)
        async for key in client.scan_iter("cache-d:e:*"):
            await client.set(key, b"\x80garbage")
        assert await bed.status_of() == "fwd=uri-miss; stored"
        async for key in client.scan_iter("cache-d:u:*"):
            await client.delete(key)
            await client.hset(key, "x", b"\xff")
        assert await bed.status_of() == "fwd=uri-miss; stored"


async def test_redis_down_is_a_miss_and_never_an_error(make: Any, no_redis_url: str, caplog: Any) -> None:
    bed = bed_of(make, redis={"url": no_redis_url}, purge=PURGE)
    async with bed.kit:
        for _ in range(3):
            assert await bed.status_of() == "fwd=uri-miss; stored"
            bed.now += 2
        await bed.get("/a", "POST")
        failed = await purge(bed, "all=true")
        assert (failed.status, json.loads(failed.body)["reason"]) == (503, "PurgeFailed")
    assert [record.levelname for record in caplog.records] == ["WARNING"], "it is said once"


@pytest.mark.connected
async def test_redis_is_taken_up_again_after_a_pause(make: Any, redis_url: str, no_redis_url: str) -> None:
    bed = bed_of(make, redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "cache-e"})
    async with bed.kit:
        await bed.get()
        shared = bed.kit.plugin._shared
        good, shared._client = shared._client, await bed.kit.context.redis(no_redis_url)
        assert "hit" not in await bed.status_of()
        shared._client = good
        assert "hit" not in await bed.status_of(), "it is left alone for a second"
        bed.now += 1
        assert "hit" in await bed.status_of()


async def test_a_redis_that_never_answers_is_given_up(make: Any, silent_redis_url: str) -> None:
    bed = bed_of(make, redis={"url": silent_redis_url, "timeoutSeconds": 0.01})
    async with bed.kit:
        assert await bed.status_of() == "fwd=uri-miss; stored"
        assert bed.kit.plugin._shared.is_down


def test_the_schema_wants_purges_with_long_tokens(refused: Any) -> None:
    assert refused(ResponseCache, {"purge": {"path": "/x", "token": "short"}})
    assert refused(ResponseCache, {"redis": {"url": "http://x"}})
    assert refused(ResponseCache, {"maxBytes": 1})
    assert refused(ResponseCache, {}) == ""


def test_a_reply_is_no_head() -> None:
    assert isinstance(entry("u").answer(RequestHead("GET", "/"), NOW, "hit"), Reply)
