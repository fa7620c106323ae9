"""What responses are read as, and which are refused: an upstream is believed no more than a client."""

from __future__ import annotations

import pytest
from nexus_wire.http1 import Refused, ResponseBlock, ResponseParser
from nexus_wire.http1.testing import Response, read_response


def read(data: bytes) -> Response:
    return read_response(ResponseParser(), data)


def ok(headers: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + body


def block(*lines: bytes) -> ResponseBlock:
    return ResponseParser().block(b"\r\n".join(lines))


HOSTILE = {
    "length and coding": ok(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "coding and length": ok(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"0\r\n\r\n"),
    "two lengths": ok(b"Content-Length: 0\r\nContent-Length: 1\r\n", b"a"),
    "list of lengths": ok(b"Content-Length: 1, 1\r\n", b"a"),
    "signed length": ok(b"Content-Length: +1\r\n", b"a"),
    "empty length": ok(b"Content-Length:\r\n"),
    "length beyond all sizes": ok(b"Content-Length: " + b"9" * 19 + b"\r\n"),
    "length of 5,000 digits": ok(b"Content-Length: " + b"1" * 5000 + b"\r\n"),
    "second length of 5,000 digits": ok(b"Content-Length: 1\r\nContent-Length: " + b"0" * 4999 + b"1\r\n", b"a"),
    "coding gzip, chunked": ok(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "coding identity": ok(b"Transfer-Encoding: identity\r\n"),
    "chunked twice": ok(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "bare LF in the head": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "bare LF between headers": ok(b"X-A: b\nX-B: c\r\n"),
    "bare CR in a value": ok(b"X-A: b\rc\r\n"),
    "NUL in a value": ok(b"X-A: b\x00\r\n"),
    "folded header": ok(b"X-A: b\r\n c\r\n"),
    "space before the colon": ok(b"X-A : b\r\n"),
    "no colon": ok(b"X-A\r\n"),
    "empty name": ok(b": b\r\n"),
    "201 headers": ok(b"X: y\r\n" * 201),
    "70 KB header": ok(b"X: " + b"y" * 70000 + b"\r\n"),
    "70 KB without an end": ok(b"X: " + b"y" * 70000)[:-2],
    "no version": b"200 OK\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "lower-case version": b"http/1.1 200 OK\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "escape sequence in the reason": b"HTTP/1.1 200 \x1b[31m\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "empty line": b"\r\n\r\n",
    "bad chunk": ok(b"Transfer-Encoding: chunked\r\n", b"zz\r\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_responses_are_refused(name: str) -> None:
    parser = ResponseParser()
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            read_response(parser, HOSTILE[name])
        assert refused.value.detail.endswith(".")
        if name != "bad chunk":
            assert (refused.value.status, refused.value.reason) == (502, "UpstreamProtocolError")
    assert HOSTILE[name].partition(b"\r\n")[2][:-4] not in parser.blocks


@pytest.mark.parametrize(
    ("raw", "code", "minor", "reason", "line"),
    [
        (b"HTTP/1.1 200 OK", 200, 1, b"OK", b"HTTP/1.1 200 OK\r\n"),
        (b"HTTP/1.0 404 Not Found", 404, 0, b"Not Found", b"HTTP/1.1 404 Not Found\r\n"),
        (b"HTTP/1.1 204", 204, 1, b"", b"HTTP/1.1 204 \r\n"),
        (b"HTTP/1.1 204 ", 204, 1, b"", b"HTTP/1.1 204 \r\n"),
        (b"HTTP/1.1 418 Ich bin eine Teekanne \xc3\xbc", 418, 1, b"Ich bin eine Teekanne \xc3\xbc",
         b"HTTP/1.1 418 Ich bin eine Teekanne \xc3\xbc\r\n"),
        (b"HTTP/1.1 999 x", 999, 1, b"x", b"HTTP/1.1 999 x\r\n"),
    ],
)  # fmt: skip
def test_status_lines(raw: bytes, code: int, minor: int, reason: bytes, line: bytes) -> None:
    found = ResponseParser().status(raw)
    assert (found.code, found.minor, found.reason, found.line) == (code, minor, reason, line)


def test_where_bodies_end() -> None:
    assert (block().length, block().framing, block().forward) == (-2, b"", b"")
    sized = block(b"Content-Length: 05")
    assert (sized.length, sized.framing, sized.forward) == (5, b"content-length: 5\r\n", b"content-length: 5\r\n")
    chunked = block(b"Transfer-Encoding: Chunked")
    assert (chunked.length, chunked.forward) == (-1, b"transfer-encoding: chunked\r\n")
    assert read(ok(b"", b"until the end")).body == b"until the end"
    assert read(ok(b"Content-Length: 2\r\n", b"abc")).rest == b"c"


def test_the_same_length_twice_is_one() -> None:
    found = block(b"Content-Length: 3", b"Content-Length: 3")
    assert (found.length, found.forward) == (3, b"content-length: 3\r\n")
    assert found.headers == (("content-length", "3"),)


def test_only_end_to_end_lines_are_passed_on() -> None:
    found = block(
        b"Server: x", b"Connection: close, X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Date: Sat, 21 Nov 2026 10:00:00 GMT",
        b"Set-Cookie: a=b", b"Set-Cookie: c=d", b"Proxy-Connection: x", b"Trailer: y", b"Content-Length: 2", b"X_Under: score",
    )  # fmt: skip
    assert found.forward == (
        b"Server: x\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nX_Under: score\r\n"
        b"content-length: 2\r\n"
    )
    assert (found.close, found.keep_alive, found.has_date) == (True, False, True)
    assert found.headers == (
        ("server", "x"), ("date", "Sat, 21 Nov 2026 10:00:00 GMT"), ("set-cookie", "a=b"), ("set-cookie", "c=d"),
        ("content-length", "2"), ("x_under", "score"),
    )  # fmt: skip


@pytest.mark.parametrize("framing", [b"Content-Length: 2", b"Transfer-Encoding: chunked"])
def test_no_option_takes_the_framing_away(framing: bytes) -> None:
    found = block(b"Connection: content-length, transfer-encoding, date", framing, b"Date: x")
    assert found.forward == framing.lower() + b"\r\n"
    assert found.has_date is False


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((b"Upgrade: WebSocket", b"Connection: Upgrade"), b"websocket"),
        ((b"Upgrade: websocket, h2c", b"Connection: Upgrade"), b""),
        ((b"Upgrade: websocket", b"Upgrade: h2c"), b""),
        ((), b""),
    ],
)
def test_upgrades(lines: tuple[bytes, ...], upgrade: bytes) -> None:
    found = block(*lines)
    assert (found.upgrade, found.forward) == (upgrade, b"")
