"""What requests are read as."""

from __future__ import annotations

import pytest
from nexus_wire.http1 import Refused, RequestBlock, RequestParser, opinions
from nexus_wire.http1.fields import pairs
from nexus_wire.http1.testing import Request, read_request

ASIDE = (b"x-request-id", b"traceparent")


def parser(**options: object) -> RequestParser:
    return RequestParser(aside=ASIDE, aside_prefixes=(b"x-forwarded-",), drop=(b"x-real-ip",), **options)  # type: ignore[arg-type]


def read(data: bytes) -> Request:
    return read_request(parser(), data)


def block(*lines: bytes) -> RequestBlock:
    return parser().block(b"\r\n".join((b"Host: a", *lines)))


@pytest.mark.parametrize(
    ("raw", "method", "path", "query", "authority", "minor", "start"),
    [
        (b"GET / HTTP/1.1", "GET", "/", "", b"", 1, b"GET / HTTP/1.1\r\n"),
        (b"GET /a/b?c=d HTTP/1.1", "GET", "/a/b", "c=d", b"", 1, b"GET /a/b?c=d HTTP/1.1\r\n"),
        (b"GET /a? HTTP/1.1", "GET", "/a", "", b"", 1, b"GET /a? HTTP/1.1\r\n"),
        (b"GET /a??b HTTP/1.1", "GET", "/a", "?b", b"", 1, b"GET /a??b HTTP/1.1\r\n"),
        (b"GET /a?b=../%2F//\\ HTTP/1.1", "GET", "/a", "b=../%2F//\\", b"", 1, b"GET /a?b=../%2F//\\ HTTP/1.1\r\n"),
        (b"POST /a HTTP/1.0", "POST", "/a", "", b"", 0, b"POST /a HTTP/1.1\r\n"),
        (b"PROPFIND /a HTTP/1.1", "PROPFIND", "/a", "", b"", 1, b"PROPFIND /a HTTP/1.1\r\n"),
        (b"M-SEARCH /a HTTP/1.1", "M-SEARCH", "/a", "", b"", 1, b"M-SEARCH /a HTTP/1.1\r\n"),
        (b"GET //a///b/ HTTP/1.1", "GET", "/a/b/", "", b"", 1, b"GET /a/b/ HTTP/1.1\r\n"),
        (b"GET /a/./b/../c?d HTTP/1.1", "GET", "/a/c", "d", b"", 1, b"GET /a/c?d HTTP/1.1\r\n"),
        (b"GET /a/.. HTTP/1.0", "GET", "/", "", b"", 0, b"GET / HTTP/1.1\r\n"),
        (b"GET /.well-known/x HTTP/1.1", "GET", "/.well-known/x", "", b"", 1, b"GET /.well-known/x HTTP/1.1\r\n"),
        (b"GET /caf%C3%A9;x=1 HTTP/1.1", "GET", "/caf%C3%A9;x=1", "", b"", 1, b"GET /caf%C3%A9;x=1 HTTP/1.1\r\n"),
        (
            b"GET /%61d%6Din/%7e%c3%a9?%61 HTTP/1.1",
            "GET",
            "/admin/~%C3%A9",
            "%61",
            b"",
            1,
            b"GET /admin/~%C3%A9?%61 HTTP/1.1\r\n",
        ),
        (b"GET /%2561 HTTP/1.1", "GET", "/%2561", "", b"", 1, b"GET /%2561 HTTP/1.1\r\n"),
        (b"OPTIONS * HTTP/1.1", "OPTIONS", "/", "", b"", 1, b"OPTIONS * HTTP/1.1\r\n"),
        (b"OPTIONS * HTTP/1.0", "OPTIONS", "/", "", b"", 0, b"OPTIONS * HTTP/1.1\r\n"),
        (b"GET http://B.c:8080/d?e HTTP/1.1", "GET", "/d", "e", b"B.c:8080", 1, b"GET /d?e HTTP/1.1\r\n"),
        (b"GET HTTPS://b HTTP/1.1", "GET", "/", "", b"b", 1, b"GET / HTTP/1.1\r\n"),
        (b"GET http://b?c/d HTTP/1.1", "GET", "/", "c/d", b"b", 1, b"GET /?c/d HTTP/1.1\r\n"),
        (b"GET http://[::1]:80/ HTTP/1.1", "GET", "/", "", b"[::1]:80", 1, b"GET / HTTP/1.1\r\n"),
    ],
)
def test_request_lines(
    raw: bytes, method: str, path: str, query: str, authority: bytes, minor: int, start: bytes
) -> None:
    line = parser().line(raw)
    assert (line.method, line.path, line.query, line.authority, line.minor, line.start) == (
        method, path, query, authority, minor, start,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"a", "a", 0),
        (b"Shop.Example.COM", "shop.example.com", 0),
        (b"shop.example.com.", "shop.example.com", 0),
        (b"shop.example.com.:8080", "shop.example.com", 8080),
        (b"a:", "a", 0),
        (b"a:65535", "a", 65535),
        (b"127.0.0.1:80", "127.0.0.1", 80),
        (b"[::1]", "[::1]", 0),
        (b"[2001:DB8::1]:443", "[2001:db8::1]", 443),
        (b"[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", 0),
        (b"my_service.shop", "my_service.shop", 0),
    ],
)
def test_hosts(value: bytes, host: str, port: int) -> None:
    found = parser().block(b"Host: " + value)
    assert (found.host, found.port, found.authority, found.has_host) == (host, port, value, True)


def test_no_host_is_for_http_1_0_only() -> None:
    assert read(b"GET / HTTP/1.0\r\n\r\n").block.has_host is False
    with pytest.raises(Refused):
        read(b"GET / HTTP/1.1\r\n\r\n")


def test_a_target_in_absolute_form_stands_beside_another_host() -> None:
    """RFC 9112 section 3.2.2: the target's authority is what counts; both are told."""
    found = read(b"GET http://real.example/x HTTP/1.1\r\nHost: other.example\r\n\r\n")
    assert (found.line.authority, found.block.authority) == (b"real.example", b"other.example")


def test_only_end_to_end_lines_are_passed_on() -> None:
    found = block(
        b"Accept: */*", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"TE: gzip, trailers",
        b"Proxy-Connection: close", b"Proxy-Authorization: Basic eA==", b"Trailer: X-T", b"X-Request-Id: 1",
        b"X-Forwarded-Proto: https", b"X-Real-IP: 1.2.3.4", b"Expect: 100-continue", b"HTTP2-Settings: AA",
        b"X-B:  two ", b"Content-Length: 007",
    )  # fmt: skip
    assert found.forward == b"Accept: */*\r\nX-B:  two \r\ncontent-length: 7\r\n"
    assert found.aside == {b"x-request-id": b"1", b"x-forwarded-proto": b"https"}
    assert (found.length, found.sized, found.expects, found.trailers) == (7, True, True, True)
    assert (found.close, found.keep_alive, found.upgrade) == (False, True, b"")
    assert found.headers == (
        ("host", "a"), ("accept", "*/*"), ("x-request-id", "1"), ("x-forwarded-proto", "https"), ("x-b", "two"),
        ("content-length", "007"),
    )  # fmt: skip
    assert found.get("x-hop") is None
    assert found.get("te") == "gzip, trailers"


def test_no_headers_to_pass_on_are_no_bytes() -> None:
    found = block()
    assert (found.forward, found.aside, found.length, found.sized) == (b"", None, 0, False)


def test_length_zero_is_passed_on() -> None:
    found = block(b"Content-Length: 0")
    assert (found.forward, found.length, found.sized) == (b"content-length: 0\r\n", 0, True)


def test_chunked_is_passed_on_in_one_spelling() -> None:
    found = block(b"Transfer-Encoding: CHUNKED ")
    assert (found.forward, found.length, found.sized) == (b"transfer-encoding: chunked\r\n", -1, False)


def test_repeats_are_kept_in_order_and_joined_on_demand() -> None:
    found = block(b"X-A: 1", b"x-a: 2", b"X-Request-Id: 1", b"X-REQUEST-ID: 2")
    assert found.forward == b"X-A: 1\r\nx-a: 2\r\n"
    assert found.joined["x-a"] == "1,2"
    assert found.aside == {b"x-request-id": b"1, 2"}
    assert [pair for pair in found.headers if pair[0] == "x-a"] == [("x-a", "1"), ("x-a", "2")]
    assert found.headers is found.headers


def test_text_beyond_ascii_passes_unchanged_and_reads_as_utf_8_or_latin_1() -> None:
    found = block(b"X-New: caf\xc3\xa9", b"X-Old: caf\xe9")
    assert found.forward == b"X-New: caf\xc3\xa9\r\nX-Old: caf\xe9\r\n"
    assert found.headers[1:] == (("x-new", "café"), ("x-old", "café"))


def test_pairs_of_nothing_are_none() -> None:
    assert list(pairs(b"")) == []


@pytest.mark.parametrize(
    ("lines", "upgrade", "close"),
    [
        ((b"Connection: Upgrade", b"Upgrade: WebSocket"), b"websocket", False),
        ((b"Upgrade: websocket",), b"", False),
        ((b"Connection: upgrade",), b"", False),
        ((b"Connection: upgrade", b"Upgrade: websocket, h2c"), b"websocket,h2c", False),
        ((b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c"), b"websocket,h2c", False),
        ((b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 3"), b"", True),
        ((b"Connection: upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked"), b"", True),
        ((b"Connection: close, upgrade", b"Upgrade: websocket"), b"websocket", True),
        ((b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket"), b"websocket", True),
    ],
)
def test_upgrades(lines: tuple[bytes, ...], upgrade: bytes, close: bool) -> None:
    """With a body there is no upgrade: parsers disagree on where it would begin."""
    found = block(*lines)
    assert (found.upgrade, found.close) == (upgrade, close)
    assert b"pgrade" not in found.forward


def test_methods_that_llhttp_does_not_know_are_read_by_it_all_the_same() -> None:
    head = b"BREW-COFFEE /pot HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"
    assert read(head + b"x").line.method == "BREW-COFFEE"
    with pytest.raises(Refused):
        opinions.Opinion().ask(head.replace(b"Host:", b"Host :"), "BREW-COFFEE", 1, 1, False)


@pytest.mark.parametrize(
    ("head", "method", "minor", "length", "upgrade"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", 1, 5, False),  # it sees no body
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "GET", 1, 0, False),  # it sees one
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", 0, 0, False),  # it reads another version
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", 1, 0, False),  # it forgives a second space
        (b"GET / HTTP/1.1\r\nHost: a\r\n", "GET", 1, 0, False),  # it sees no end
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", "POST", 1, 5, False),  # nor here
        (b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", "GET", 1, 0, False),  # it sees two
    ],
)
def test_two_readings_must_be_one(head: bytes, method: str, minor: int, length: int, upgrade: bool) -> None:
    with pytest.raises(Refused):
        opinions.Opinion().ask(head, method, minor, length, upgrade)


def test_what_was_read_before_changes_no_opinion() -> None:
    """One parser reads head after head; after a refusal, a body, an upgrade or a last request it is another one."""

    def verdict(opinion: opinions.Opinion, head: bytes, length: int, upgrade: bool) -> bool:
        try:
            opinion.ask(head, head.partition(b" ")[0].decode(), 1, length, upgrade)  # nobody tells it of the last one
        except Refused:
            return False
        return True

    start = b" / HTTP/1.1\r\nHost: a\r\n"
    heads = [
        (b"GET" + start + b"\r\n", 0, False),
        (b"POST" + start + b"Content-Length: 5\r\n\r\n", 5, False),
        (b"POST" + start + b"Transfer-Encoding: chunked\r\n\r\n", -1, False),
        (b"GET" + start + b"Connection: close\r\n\r\n", 0, False),
        (b"GET" + start + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 0, True),
        (b"HEAD" + start + b"\r\n", 0, False),
        (b"GET" + start, 0, False),
        (b"GET" + start + b"Host : b\r\n\r\n", 0, False),
        (b"GET" + start + b"\r\nGET" + start + b"\r\n", 0, False),
        (b"POST" + start + b"Content-Length: 5\r\n\r\n", 0, False),
    ]
    alone = [verdict(opinions.Opinion(), *each) for each in heads]
    assert alone == [True] * 6 + [False] * 4
    shared = opinions.Opinion()
    for one in heads:
        for each, expected in zip(heads, alone, strict=True):
            verdict(shared, *one)
            assert verdict(shared, *each) is expected, (one, each)


def test_limits_are_the_callers() -> None:
    small = parser(max_head_bytes=64, max_headers=2)
    assert small.block(b"Host: a\r\nX: " + b"b" * 52).host == "a"
    for raw in (b"Host: a\r\nX: " + b"b" * 53, b"Host: a\r\nX: b\r\nY: c"):
        with pytest.raises(Refused) as refused:
            small.block(raw)
        assert (refused.value.status, refused.value.reason) == (431, "HeadTooLarge")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "BadRequest"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "MethodRefused"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "BadVersion"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417, "ExpectationFailed"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "HeadTooLarge"),
    ],
)
def test_refusals_say_what_and_why_and_never_repeat_the_request(data: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        read(data)
    assert (refused.value.status, refused.value.reason) == (status, reason)
    assert refused.value.detail.endswith(".")
    assert str(refused.value) == refused.value.detail


@pytest.mark.parametrize(
    "lines",
    [
        (b"X-A: 1", b"x-b: 2"),
        (b"X-A: 1", b"X-a:  3 ", b"Y: 2"),
        (b"Y: x-a: 5", b"X-A:"),
        (b"X-A: caf\xe9", b"Z: \xff"),
        (b"Connection: x-a", b"X-A: 1", b"X-B: 2"),
    ],
)
@pytest.mark.parametrize("name", ["x-a", "x-b", "y", "x", "a", "x-a: 5", "host"])
def test_one_header_is_what_it_is_among_all(lines: tuple[bytes, ...], name: str) -> None:
    all_read = block(*lines)
    assert block(*lines).get(name) == all_read.joined.get(name)
    assert block(*lines).first(name) == next((value for each, value in all_read.passed if each == name), None)
