"""What is refused in requests, row by row, next to what llhttp alone says of the same bytes.

Each row: the bytes, the status they are answered with (None: they wait for more until a deadline comes), and llhttp's verdict.
Where llhttp lets something through, only our own reading stands between it and the upstream.
"""

from __future__ import annotations

import httptools
import pytest
from nexus_wire.http1 import Refused, RequestParser
from nexus_wire.http1.opinions import KNOWN
from nexus_wire.http1.testing import Incomplete, read_request

REFUSES, PASSES, WAITS = "refuses", "passes", "waits"
HOST = b"Host: a\r\n"


def get(target: bytes = b"/", headers: bytes = HOST, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return b"%b %b %b\r\n%b\r\n" % (method, target, version, headers)


def post(headers: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return get(b"/", HOST + headers, version, b"POST") + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


CASES: dict[str, tuple[bytes, int | None, str]] = {
    # framing
    "length and coding": (post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "coding and length": (post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "same length twice": (post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"a"), 400, REFUSES),
    "two lengths": (post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"ab"), 400, REFUSES),
    "list of lengths": (post(b"Content-Length: 1, 1\r\n", b"a"), 400, REFUSES),
    "length with plus": (post(b"Content-Length: +1\r\n", b"a"), 400, REFUSES),
    "length with minus": (post(b"Content-Length: -1\r\n", b"a"), 400, REFUSES),
    "empty length": (post(b"Content-Length: \r\n"), 400, REFUSES),
    "hexadecimal length": (post(b"Content-Length: 0x1\r\n", b"a"), 400, REFUSES),
    "length with underscore": (post(b"Content-Length: 1_0\r\n", b"a" * 10), 400, REFUSES),
    "length with a space inside": (post(b"Content-Length: 1 0\r\n", b"a" * 10), 400, REFUSES),
    "length in other digits": (post("Content-Length: ٣\r\n".encode(), b"abc"), 400, REFUSES),
    "length beyond all sizes": (post(b"Content-Length: " + b"9" * 19 + b"\r\n", b"a"), 400, WAITS),
    "length of 5,000 digits": (post(b"Content-Length: " + b"0" * 4999 + b"1\r\n", b"a"), 400, PASSES),
    "coding identity": (post(b"Transfer-Encoding: identity\r\n"), 400, REFUSES),
    "coding gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 400, PASSES),
    "coding chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "coding chunked, identity": (post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "coding xchunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "coding chunked;x": (post(b"Transfer-Encoding: chunked;x=1\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "coding in quotes": (post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), 400, REFUSES),
    "empty coding": (post(b"Transfer-Encoding: \r\n"), 400, REFUSES),
    "two codings": (post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "chunked twice": (post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "chunked in HTTP/1.0": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.0"), 400, PASSES),
    "vertical tab before coding": (post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "coding with underscore": (post(b"Transfer_Encoding: chunked\r\n"), 400, PASSES),
    # lines
    "folded header": (get(headers=HOST + b"X-A: b\r\n c\r\n"), 400, REFUSES),
    "folded by a tab": (get(headers=HOST + b"X-A: b\r\n\tc\r\n"), 400, REFUSES),
    "first header folded": (get(headers=b" X: y\r\n" + HOST), 400, REFUSES),
    "folded before coding": (post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), 400, REFUSES),
    "bare LF between headers": (get(headers=HOST + b"X-A: b\nX-B: c\r\n"), 400, REFUSES),
    "bare LF behind the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, REFUSES),
    "HTTP/0.9 with headers": (b"GET /x\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400, PASSES),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\n\n", None, REFUSES),
    "bare CR in a value": (get(headers=HOST + b"X-A: b\rX-B: c\r\n"), 400, REFUSES),
    "CR before CRLF": (get(headers=HOST + b"X-A: b\r\r\n"), 400, REFUSES),
    "NUL in a value": (get(headers=HOST + b"X-A: b\x00c\r\n"), 400, REFUSES),
    "control byte in a value": (get(headers=HOST + b"X-A: b\x01c\r\n"), 400, REFUSES),
    "DEL in a value": (get(headers=HOST + b"X-A: b\x7fc\r\n"), 400, REFUSES),
    "escape sequence in a value": (get(headers=HOST + b"X-A: \x1b[31m\r\n"), 400, REFUSES),
    "space before the colon": (get(headers=HOST + b"X-A : b\r\n"), 400, REFUSES),
    "tab before the colon": (get(headers=HOST + b"X-A\t: b\r\n"), 400, REFUSES),
    "empty name": (get(headers=HOST + b": b\r\n"), 400, REFUSES),
    "bracket in a name": (get(headers=HOST + b"X(A): b\r\n"), 400, REFUSES),
    "name beyond ASCII": (get(headers=HOST + b"X-\xc3\xa9: b\r\n"), 400, REFUSES),
    "underscore in a name": (get(headers=HOST + b"X_A: b\r\n"), 400, PASSES),
    "no colon": (get(headers=HOST + b"Xfoo\r\n"), 400, REFUSES),
    "200 headers": (get(headers=HOST + b"".join(b"X-%d: a\r\n" % i for i in range(200))), 431, PASSES),
    "101 headers": (get(headers=HOST + b"X: a\r\n" * 100), 431, PASSES),
    "40 KB header": (get(headers=HOST + b"X: " + b"a" * 40000 + b"\r\n"), 431, PASSES),
    "40 KB without an end": (get(headers=HOST + b"X: " + b"a" * 40000)[:-2], 431, WAITS),
    "40 KB request line": (get(b"/" + b"a" * 40000), 431, PASSES),
    # host
    "no Host": (get(headers=b"X: a\r\n"), 400, PASSES),
    "no headers": (b"GET / HTTP/1.1\r\n\r\n", 400, PASSES),
    "two Hosts": (get(headers=HOST + b"Host: b\r\n"), 400, PASSES),
    "the same Host twice": (get(headers=HOST + HOST), 400, PASSES),
    "two Hosts in HTTP/1.0": (get(headers=HOST + b"Host: b\r\n", version=b"HTTP/1.0"), 400, PASSES),
    "empty Host": (get(headers=b"Host:\r\n"), 400, PASSES),
    "Host with a space": (get(headers=b"Host: a b\r\n"), 400, PASSES),
    "Host with a slash": (get(headers=b"Host: a/b\r\n"), 400, PASSES),
    "Host with a user": (get(headers=b"Host: me@a\r\n"), 400, PASSES),
    "Host list": (get(headers=b"Host: a, b\r\n"), 400, PASSES),
    "Host beyond ASCII": (get(headers=b"Host: \xc3\xa9\r\n"), 400, PASSES),
    "Host with percent": (get(headers=b"Host: a%2eb\r\n"), 400, PASSES),
    "Host with two dots": (get(headers=b"Host: a..b\r\n"), 400, PASSES),
    "port 65536": (get(headers=b"Host: a:65536\r\n"), 400, PASSES),
    "port of six digits": (get(headers=b"Host: a:000080\r\n"), 400, PASSES),
    "port with a sign": (get(headers=b"Host: a:+80\r\n"), 400, PASSES),
    "two ports": (get(headers=b"Host: a:80:81\r\n"), 400, PASSES),
    "bare IPv6": (get(headers=b"Host: ::1\r\n"), 400, PASSES),
    "broken IPv6": (get(headers=b"Host: [1::2::3]\r\n"), 400, PASSES),
    "IPv6 without an end": (get(headers=b"Host: [::1\r\n"), 400, PASSES),
    "Host of 300 bytes": (get(headers=b"Host: " + b"a" * 300 + b"\r\n"), 400, PASSES),
    # method
    "equals sign in the method": (get(method=b"G=T"), 400, REFUSES),
    "lower-case method": (get(method=b"get"), 400, REFUSES),
    "mixed-case method": (get(method=b"Get"), 400, REFUSES),
    "empty method": (get(method=b""), 400, REFUSES),
    "method of 33 letters": (get(method=b"A" * 33), 400, REFUSES),
    "digit in the method": (get(method=b"GET1"), 400, REFUSES),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405, PASSES),
    "CONNECT with a path": (get(method=b"CONNECT"), 405, PASSES),
    "TRACE": (get(method=b"TRACE"), 405, PASSES),
    # target
    "space in the target": (get(b"/a b"), 400, REFUSES),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, PASSES),
    "space behind the version": (get(version=b"HTTP/1.1 "), 400, REFUSES),
    "space before the method": (b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400, REFUSES),
    "tab for a space": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, REFUSES),
    "tab in the target": (get(b"/a\tb"), 400, REFUSES),
    "control byte in the target": (get(b"/a\x01b"), 400, REFUSES),
    "DEL in the target": (get(b"/a\x7fb"), 400, REFUSES),
    "UTF-8 in the target": (get(b"/\xc3\xa9"), 400, REFUSES),
    "UTF-8 in the query": (get(b"/?q=\xc3\xa9"), 400, REFUSES),
    "fragment": (get(b"/a#b"), 400, PASSES),
    "fragment in the query": (get(b"/a?b#c"), 400, PASSES),
    "relative target": (get(b"foo"), 400, REFUSES),
    "query alone": (get(b"?a"), 400, REFUSES),
    "asterisk for GET": (get(b"*"), 400, PASSES),
    "asterisk with more": (get(b"*/a", method=b"OPTIONS"), 400, PASSES),
    "empty target": (b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400, REFUSES),
    "authority form": (get(b"a:80"), 400, REFUSES),
    "file URL": (get(b"file:///etc/passwd"), 400, PASSES),
    "absolute form with a user": (get(b"http://me@a/"), 400, PASSES),
    "absolute form without a host": (get(b"http:///a"), 400, PASSES),
    "absolute form, port 70000": (get(b"http://a:70000/"), 400, PASSES),
    "absolute form with a fragment": (get(b"http://a#b"), 400, REFUSES),
    "absolute form, bad Host": (get(b"http://a/", b"Host: b/c\r\n"), 400, PASSES),
    "absolute form, no Host": (get(b"http://a/", b"X: y\r\n"), 400, PASSES),
    # path
    "above the root": (get(b"/../etc"), 400, PASSES),
    "above the root, later": (get(b"/a/../../etc"), 400, PASSES),
    "above the root, absolute form": (get(b"http://a/../etc"), 400, PASSES),
    "encoded dots": (get(b"/%2e%2e/etc"), 400, PASSES),
    "encoded slash": (get(b"/a%2Fb"), 400, PASSES),
    "encoded backslash": (get(b"/a%5cb"), 400, PASSES),
    "encoded NUL": (get(b"/a%00b"), 400, PASSES),
    "broken escape": (get(b"/a%zzb"), 400, PASSES),
    "half an escape": (get(b"/a%2"), 400, PASSES),
    "backslash": (get(b"/a\\..\\b"), 400, PASSES),
    "dots with parameters": (get(b"/..;/b"), 400, PASSES),
    "dot with parameters": (get(b"/a/.;x=1/b"), 400, PASSES),
    # version
    "HTTP/2.0": (get(version=b"HTTP/2.0"), 505, PASSES),
    "HTTP/1.2": (get(version=b"HTTP/1.2"), 505, REFUSES),
    "HTTP/0.9 by name": (get(version=b"HTTP/0.9"), 505, PASSES),
    "HTTP/01.1": (get(version=b"HTTP/01.1"), 400, REFUSES),
    "HTTP/1.10": (get(version=b"HTTP/1.10"), 400, REFUSES),
    "HTTP/1": (get(version=b"HTTP/1"), 400, REFUSES),
    "http/1.1": (get(version=b"http/1.1"), 400, REFUSES),
    "ICE/1.0": (get(version=b"ICE/1.0"), 400, REFUSES),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, PASSES),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, REFUSES),
    # what Connection and Expect may say
    "Connection names host": (get(headers=HOST + b"Connection: close, host\r\n"), 400, PASSES),
    "Connection names content-length": (post(b"Connection: Content-Length\r\nContent-Length: 1\r\n", b"a"), 400, PASSES),
    "Connection names transfer-encoding": (
        post(b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, PASSES,
    ),
    "Connection names content-type": (get(headers=HOST + b"Connection: content-type\r\n"), 400, PASSES),
    "Connection names authorization": (get(headers=HOST + b"Connection: Authorization\r\n"), 400, PASSES),
    "Connection names cookie": (get(headers=HOST + b"Connection: x,cookie\r\n"), 400, PASSES),
    "Connection names x-request-id": (get(headers=HOST + b"Connection: x-request-id\r\n"), 400, PASSES),
    "Connection names x-forwarded-for": (get(headers=HOST + b"Connection: X-Forwarded-For\r\n"), 400, PASSES),
    "Connection names x-forwarded-port": (get(headers=HOST + b"Connection: X-Forwarded-Port\r\n"), 400, PASSES),
    "Connection names traceparent": (get(headers=HOST + b"Connection: traceparent\r\n"), 400, PASSES),
    "Connection names tracestate": (get(headers=HOST + b"Connection: tracestate\r\n"), 400, PASSES),
    "second Connection names host": (get(headers=HOST + b"Connection: close\r\nConnection: host\r\n"), 400, PASSES),
    "another expectation": (get(headers=HOST + b"Expect: 200-maybe\r\n"), 417, PASSES),
    "two expectations": (get(headers=HOST + b"Expect: 100-continue, x\r\n"), 417, PASSES),
    # chunks
    "no chunk size": (chunked(b"\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size in letters": (chunked(b"zz\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size 0x3": (chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size +3": (chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size -3": (chunked(b"-3\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size 0_3": (chunked(b"0_3\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk without its CRLF": (chunked(b"3\r\nabcXX0\r\n\r\n"), 400, REFUSES),
    "chunk shorter than it says": (chunked(b"4\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunks by LF": (chunked(b"3\nabc\n0\n\n"), 400, REFUSES),
    "LF behind a chunk size": (chunked(b"3\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "LF behind a chunk": (chunked(b"3\r\nabc\n0\r\n\r\n"), 400, REFUSES),
    "CR behind a chunk size": (chunked(b"3\rabc\r\n0\r\n\r\n"), 400, REFUSES),
    "space before a chunk size": (chunked(b" 3\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "space behind a chunk size": (chunked(b"3 \r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "tab behind a chunk size": (chunked(b"3\t\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "space before an extension": (chunked(b"3 ;a=b\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size of 17 digits": (chunked(b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "chunk size of 16 digits": (chunked(b"0000000000000003\r\nabc\r\n0\r\n\r\n"), 400, PASSES),
    "LF in an extension": (chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "CR in an extension": (chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "NUL in an extension": (chunked(b"3;a=\x00\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "extension without a name": (chunked(b"3;\r\nabc\r\n0\r\n\r\n"), 400, REFUSES),
    "quote without an end": (chunked(b'3;a="b\r\nabc\r\n0\r\n\r\n'), 400, REFUSES),
    "5 KB of extension": (chunked(b"3;a=" + b"b" * 5000 + b"\r\nabc\r\n0\r\n\r\n"), 400, PASSES),
    "a byte a chunk, 4 KB around it": (chunked((b"1;a=" + b"b" * 4000 + b"\r\nx\r\n") * 8 + b"0\r\n\r\n"), 400, PASSES),
    "trailer content-length": (chunked(b"0\r\nContent-Length: 5\r\n\r\n"), 400, REFUSES),
    "trailer transfer-encoding": (chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, REFUSES),
    "trailer host": (chunked(b"0\r\nHost: b\r\n\r\n"), 400, PASSES),
    "trailer authorization": (chunked(b"0\r\nAuthorization: Basic eA==\r\n\r\n"), 400, PASSES),
    "trailer cookie": (chunked(b"0\r\nX-A: b\r\nCookie: a=b\r\n\r\n"), 400, PASSES),
    "trailer x-forwarded-for": (chunked(b"0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"), 400, PASSES),
    "folded trailer": (chunked(b"0\r\nX-A: b\r\n c\r\n\r\n"), 400, REFUSES),
    "trailer with underscore": (chunked(b"0\r\nX_A: b\r\n\r\n"), 400, PASSES),
    "trailer without colon": (chunked(b"0\r\nGET / HTTP/1.1\r\n\r\n"), 400, REFUSES),
    "bare LF in a trailer": (chunked(b"0\r\nX-A: b\nX-B: c\r\n\r\n"), 400, REFUSES),
    "control byte in a trailer": (chunked(b"0\r\nX-A: b\x01\r\n\r\n"), 400, REFUSES),
    "10 KB of trailers": (chunked(b"0\r\n" + b"X-A: " + b"b" * 995 + b"\r\n" + b"X-A: bbbb\r\n" * 900 + b"\r\n"), 400, PASSES),
    # other protocols
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, REFUSES),
    "empty line": (b"\r\n\r\n", 400, WAITS),
}  # fmt: skip


class Heard:
    def __init__(self) -> None:
        self.ends = 0
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.ends += 1


def llhttp(data: bytes) -> str:
    heard = Heard()
    parser = httptools.HttpRequestParser(heard)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return PASSES
    except httptools.HttpParserError:
        return REFUSES
    return PASSES if heard.ends else WAITS


def outcome(parser: RequestParser, data: bytes) -> int | None:
    try:
        read_request(parser, data)
    except Refused as refused:
        return refused.status
    except Incomplete:
        return None
    return 200


@pytest.mark.parametrize("name", CASES)
def test_hostile_requests_are_refused(name: str) -> None:
    data, status, _ = CASES[name]
    parser = RequestParser(aside=(b"x-request-id", b"traceparent", b"tracestate"), aside_prefixes=(b"x-forwarded-",))
    assert outcome(parser, data) == status
    # Not because it was new: the second time finds nothing in a cache that makes it any better.
    assert outcome(parser, data) == status


@pytest.mark.parametrize("name", CASES)
def test_it_is_our_own_reading_that_refuses_them(name: str) -> None:
    """All of them are refused before llhttp is asked, except for what it alone could know."""
    data, status, _ = CASES[name]
    parser = RequestParser(
        aside=(b"x-request-id", b"traceparent", b"tracestate"), aside_prefixes=(b"x-forwarded-",), second_opinion=False
    )
    assert outcome(parser, data) == status


@pytest.mark.parametrize("name", CASES)
def test_what_llhttp_says_of_them(name: str) -> None:
    """The third column is true. When an upgrade of httptools changes it, this says so."""
    data, _, said = CASES[name]
    assert llhttp(data) == said


def test_llhttp_alone_would_let_many_through() -> None:
    """The reason for a reading of our own, and its measure."""
    assert sum(said == PASSES for _, _, said in CASES.values()) > 80
    assert sum(said == REFUSES for _, _, said in CASES.values()) > 80


@pytest.mark.parametrize("method", sorted(KNOWN - {"CONNECT", "SOURCE"}))
def test_methods_asked_about_by_name_are_known_to_llhttp(method: str) -> None:
    assert llhttp(get(b"/", method=method.encode())) in (PASSES, WAITS)
