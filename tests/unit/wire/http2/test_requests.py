"""Requests over HTTP/2: read as HTTP/1.1's, and refused for the same reasons and for some of their own."""

from __future__ import annotations

import pytest
from nexus_wire.http1 import Refused, RequestParser
from nexus_wire.http2.requests import Malformed, RequestReader, digest, read_trailers

Pairs = list[tuple[bytes, bytes]]
GET: Pairs = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/a?b=c"),
    (b":authority", b"Shop.example:8443"),
]


def reader() -> RequestReader:
    return RequestReader(RequestParser(aside={b"x-forwarded-for"}), lambda: b"0123456789abcdef")


def read(pairs: Pairs, using: RequestReader | None = None) -> object:
    return (using or reader()).read([digest(*pair) for pair in pairs])


def but(**changes: bytes | None) -> Pairs:
    """GET with other pseudo-headers; None leaves one out."""
    found = [(name, changes.get(name[1:].decode(), value)) for name, value in GET]
    return [(name, value) for name, value in found if value is not None]


def test_a_request_has_the_line_and_the_headers_that_http_1_gives_it() -> None:
    line, block = reader().read(
        [digest(*pair) for pair in [*GET, (b"accept", b"*/*"), (b"te", b"trailers"), (b"x-forwarded-for", b"1.2.3.4")]]
    )
    assert (line.method, line.path, line.query, line.minor) == ("GET", "/a", "b=c", 1)
    assert line.start == b"GET /a?b=c HTTP/1.1\r\n"
    assert (block.host, block.port, block.authority) == ("shop.example", 8443, b"Shop.example:8443")
    assert block.forward == b"accept: */*\r\n"
    assert block.trailers
    assert block.aside == {b"x-forwarded-for": b"1.2.3.4"}
    assert (block.length, block.sized) == (0, False)


def test_pieces_of_a_cookie_are_put_together() -> None:
    _, block = reader().read([digest(*pair) for pair in [*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]])
    assert block.get("cookie") == "a=1; b=2"


def test_a_host_header_stands_in_for_the_authority_and_may_repeat_it() -> None:
    _, block = reader().read([digest(*pair) for pair in [*but(authority=None), (b"host", b"a.example")]])
    assert block.host == "a.example"
    for host in (b"a.example", b"A.Example", b"a.example:443"):
        _, block = reader().read([digest(*pair) for pair in [*but(authority=b"a.example"), (b"host", host)]])
        assert block.authority == b"a.example"
    _, block = reader().read([digest(*pair) for pair in [*but(authority=b"a.example"), (b"host", b"a.example")]])
    assert block.authority == b"a.example"


def test_a_body_that_no_header_speaks_of_is_framed_by_the_block() -> None:
    _, block = reader().read([digest(*pair) for pair in [*GET, (b"expect", b"100-continue")]])
    raw, sized = block.framed(-2), block.framed(7)
    assert (raw.length, raw.sized, raw.forward) == (-2, False, block.forward)
    assert (sized.length, sized.sized, sized.forward) == (7, True, block.forward + b"content-length: 7\r\n")
    assert raw.expects
    assert sized.host == block.host
    assert block.framed(-2) is raw
    assert (block.length, block.sized) == (0, False)


MALFORMED: list[Pairs] = [
    but(method=None),
    but(path=None),
    but(scheme=None),
    but(path=b""),
    but(path=b"a"),
    but(path=b"http://other.example/"),
    [*GET, (b":path", b"/b")],
    [*GET, (b":status", b"200")],
    [*GET, (b":unknown", b"x")],
    [*GET, (b":", b"x")],
    [*GET[:2], (b"a", b"b"), *GET[2:]],
    [*GET[:3], (b"cookie", b"b"), *GET[3:]],
    [*GET, (b"Upper", b"x")],
    [*GET, (b"", b"x")],
    [*GET, (b"a b", b"x")],
    [*GET, (b"a:b", b"x")],
    [*GET, (b"a\r\nb", b"x")],
    [*GET, (b"a\x00", b"x")],
    [*GET, (b"a\xff", b"x")],
    [*GET, (b"a", b"x\r\ny: z")],
    [*GET, (b"a", b"x\ny")],
    [*GET, (b"a", b"x\ry")],
    [*GET, (b"a", b"x\x00")],
    [*GET, (b"a", b"\x7f")],
    [*GET, (b"a", b" x")],
    [*GET, (b"a", b"x\t")],
    [*GET, (b"connection", b"close")],
    [*GET, (b"connection", b"host")],
    [*GET, (b"keep-alive", b"5")],
    [*GET, (b"proxy-connection", b"x")],
    [*GET, (b"transfer-encoding", b"chunked")],
    [*GET, (b"upgrade", b"websocket")],
    [*GET, (b"te", b"gzip")],
    [*GET, (b"te", b"trailers, gzip")],
    [*GET, (b"host", b"other.example")],
    [*GET, (b"host", b"shop.example")],
    [*but(authority=b"a.example"), (b"host", b"a.example:80")],
    but(path=b"/a\r\nhost: b"),
    but(method=b"GET\r\n"),
    but(authority=b"a\x00b"),
    [(b":method", b"CONNECT"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")],
    [(b":method", b"CONNECT")],
    [*GET, (b":protocol", b"websocket")],
    [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":authority", b"a")],
]


@pytest.mark.parametrize("pairs", MALFORMED, ids=range(len(MALFORMED)))
def test_what_http_2_calls_malformed_is_not_even_answered(pairs: Pairs) -> None:
    with pytest.raises(Malformed):
        read(pairs)


REFUSED: list[tuple[int, Pairs]] = [
    (400, but(path=b"/a b")),
    (400, but(path=b"/a HTTP/1.1 x")),
    (400, but(path=b"/%2e%2e/b")),
    (400, but(path=b"/../b")),
    (400, but(path=b"/a#b")),
    (400, but(path=b"/a%00")),
    (400, but(path=b"*")),
    (400, but(method=b"get")),
    (400, but(method=b"G ET")),
    (400, but(method=b"GET / HTTP/1.1")),
    (400, but(method=b"")),
    (400, but(scheme=b"ftp")),
    (400, but(authority=None)),
    (400, but(authority=b"")),
    (400, but(authority=b"user@shop.example")),
    (400, but(authority=b"shop.example:99999")),
    (400, [*but(authority=None), (b"host", b"a"), (b"host", b"a")]),
    (400, [*GET, (b"a_b", b"x")]),
    (400, [*GET, (b"content-length", b"1"), (b"content-length", b"1")]),
    (400, [*GET, (b"content-length", b"+1")]),
    (400, [*GET, (b"content-length", b"1, 1")]),
    (400, [*GET, (b"content-length", b"")]),
    (405, but(method=b"TRACE")),
    (405, [(b":method", b"CONNECT"), (b":authority", b"a.example:443")]),
    (405, [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"connect-udp")]),
    (417, [*GET, (b"expect", b"x")]),
    (431, [*GET, (b"a", b"x" * 40000)]),
    (431, [*GET, *((b"a%d" % number, b"x") for number in range(101))]),
    (400, [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket"), (b"content-length", b"1")]),
]


@pytest.mark.parametrize(("status", "pairs"), REFUSED, ids=range(len(REFUSED)))
def test_what_http_1_refuses_is_refused_as_well(status: int, pairs: Pairs) -> None:
    with pytest.raises(Refused) as raised:
        read(pairs)
    assert raised.value.status == status


def test_what_was_refused_stays_refused_whatever_else_was_read() -> None:
    """The parser's caches are full of heads that are well; none of them lets a bad one pass."""
    using = reader()
    read([*GET, (b"x", b"1"), (b"y", b"2")], using)
    for pairs in MALFORMED:
        with pytest.raises(Malformed):
            read(pairs, using)
    for _, pairs in REFUSED:
        with pytest.raises(Refused):
            read(pairs, using)
    with pytest.raises(Malformed):
        read([*GET, (b"x", b"1\r\ny: 2")], using)


def test_a_websocket_is_asked_for_as_on_http_1() -> None:
    line, block = reader().read(
        [
            digest(*pair)
            for pair in [
                (b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket"), (b"sec-websocket-version", b"13"),
            ]
        ]
    )  # fmt: skip
    assert (line.method, block.upgrade, block.length) == ("GET", b"websocket", 0)
    assert block.first("sec-websocket-key") == "MDEyMzQ1Njc4OWFiY2RlZg=="
    assert block.first("sec-websocket-version") == "13"


def test_secrets_enter_no_cache() -> None:
    using = reader()
    read([*GET, (b"authorization", b"Bearer hidden"), (b"cookie", b"hidden=1")], using)
    assert not any(b"hidden" in raw for raw in using.parser.blocks)


# ---- trailers


def test_trailers_become_lines() -> None:
    fields = [digest(b"grpc-status", b"0"), digest(b"x-sum", b"abc"), digest(b"content-length", b"9")]
    assert read_trailers(fields) == b"grpc-status: 0\r\nx-sum: abc\r\n"


@pytest.mark.parametrize("pair", [(b":path", b"/"), (b":status", b"200"), (b"Upper", b"x"), (b"connection", b"close")])
def test_a_trailer_is_no_pseudo_header(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(Malformed):
        read_trailers([digest(*pair)])


def test_trailers_are_bounded() -> None:
    with pytest.raises(Refused):
        read_trailers([digest(b"a", b"x" * 9000)])
