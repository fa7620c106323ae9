"""Chunked bodies: what passes, what is held back, what is refused; whole, byte by byte, and cut in two anywhere."""

from __future__ import annotations

import httptools
import pytest
from nexus_wire.http1 import ChunkScanner, Dechunker, Refused, trailer_lines
from nexus_wire.http1.chunks import MAX_EXCESS, MAX_LINE

GOOD: dict[str, tuple[bytes, bytes]] = {
    "empty": (b"0\r\n\r\n", b""),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "several": (b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", b"hello world"),
    "upper and lower case": (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    "leading zeros": (b"00003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "15 digits": (b"000000000000003\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extensions": (b'3;a;b=c;d="e \\"f\\" g"\r\nabc\r\n0;z\r\n\r\n', b"abc"),
    "line breaks in the content": (b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"\r\n0\r\n\r"),
    "trailers": (b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nServer-Timing:  a;dur=1 \r\n\r\n", b"abc"),
    "grpc's trailers": (b"3\r\nabc\r\n0\r\ngrpc-status: 0\r\ngrpc-message:\r\n\r\n", b"abc"),
    "line of the greatest length": (b"3;" + b"a" * (MAX_LINE - 2) + b"\r\nabc\r\n0\r\n\r\n", b"abc"),
    "trailers of the greatest size": (b"0\r\n" + (b"X: " + b"a" * 1019 + b"\r\n") * 8 + b"\r\n", b""),
}

BAD: dict[str, bytes] = {
    "no size": b"\r\n",
    "letters": b"zz\r\n",
    "0x": b"0x3\r\nabc\r\n",
    "sign": b"+3\r\nabc\r\n",
    "underscore": b"1_0\r\n",
    "16 digits": b"0000000000000003\r\nabc\r\n",
    "digits of another script": "٣\r\nabc\r\n".encode(),
    "space before": b" 3\r\nabc\r\n",
    "space behind": b"3 \r\nabc\r\n",
    "space around an extension": b"3; a\r\nabc\r\n",
    "space around an equals sign": b"3;a= b\r\nabc\r\n",
    "empty extension": b"3;;\r\nabc\r\n",
    "empty value": b"3;a=\r\nabc\r\n",
    "quote without an end": b'3;a="b\r\nabc\r\n',
    "text behind a quote": b'3;a="b"c\r\nabc\r\n',
    "control byte in a quote": b'3;a="\x01"\r\nabc\r\n',
    "too long": b"3\r\nabcd\r\n",
    "too short": b"3\r\nab\r\n0\r\n\r\n",
    "LF alone": b"3\nabc\r\n",
    "CR alone": b"3\rabc\r\n",
    "LF behind the content": b"3\r\nabc\n0\r\n\r\n",
    "CR and something behind the content": b"3\r\nabc\rX",
    "line too long": b"3;" + b"a" * (MAX_LINE - 1) + b"\r\n",
    "line without an end": b"3;" + b"a" * MAX_LINE,
    "trailers too large": b"0\r\n" + (b"X: " + b"a" * 1019 + b"\r\n") * 8 + b"X: a\r\n",
    "trailer too long": b"0\r\nX: " + b"a" * MAX_LINE + b"\r\n\r\n",
    "trailer without colon": b"0\r\nabc\r\n\r\n",
    "trailer without a name": b"0\r\n: abc\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "NUL in a trailer": b"0\r\nX: \x00\r\n\r\n",
    "underscore in a trailer": b"0\r\nX_A: b\r\n\r\n",
    "space before a trailer's colon": b"0\r\nX : b\r\n\r\n",
}
REFUSED_TRAILERS = (
    b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"Content-Type", b"Content-Encoding", b"Authorization",
    b"Cookie", b"Set-Cookie", b"Expect", b"TE", b"Trailer", b"Upgrade", b"X-Forwarded-For", b"X-Forwarded-Whatever",
    b"X-Request-Id", b"Traceparent", b"Proxy-Authorization", b"Cache-Control", b"Location", b"X-HTTP-Method-Override",
)  # fmt: skip
Outcome = tuple[bytes, bytes | None, bool]


def feed(scanner: ChunkScanner, pieces: list[bytes]) -> Outcome:
    """Return what passed, what was left behind the end (None for no end), and whether it was refused."""
    passed = b""
    for index, piece in enumerate(pieces):
        try:
            data, rest = scanner.take(piece)
        except Refused:
            return passed, None, True
        passed += data
        if rest is not None:
            return passed, rest + b"".join(pieces[index + 1 :]), False
    return passed, None, False


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n"])
def test_bodies_pass_unchanged_however_they_are_cut(name: str, behind: bytes) -> None:
    body, content = GOOD[name]
    data = body + behind
    for make, expected in ((ChunkScanner, body), (Dechunker, content)):
        assert feed(make(), [data]) == (expected, behind, False)
        assert feed(make(), [data[i : i + 1] for i in range(len(data))]) == (expected, behind, False)
        for cut in range(0, len(data), 1 if len(data) < 500 else 41):
            assert feed(make(), [data[:cut], data[cut:]]) == (expected, behind, False)


@pytest.mark.parametrize("name", GOOD)
def test_an_unfinished_body_is_neither_ended_nor_refused(name: str) -> None:
    body, _ = GOOD[name]
    for cut in range(0, len(body), 1 if len(body) < 500 else 41):
        passed, rest, refused = feed(ChunkScanner(), [body[:cut]])
        assert (rest, refused) == (None, False)
        assert body.startswith(passed)


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused_however_they_are_cut(name: str) -> None:
    data = b"2\r\nok\r\n" + BAD[name]
    for make in (ChunkScanner, lambda: Dechunker(underscores=False)):
        assert feed(make(), [data])[2]
        assert feed(make(), [data[i : i + 1] for i in range(len(data))])[2]
        for cut in range(1, len(data), 1 if len(data) < 500 else 41):
            assert feed(make(), [data[:cut], data[cut:]])[2]


@pytest.mark.parametrize("name", GOOD)
def test_llhttp_reads_the_same_content(name: str) -> None:
    body, content = GOOD[name]
    got: list[bytes] = []
    ends: list[int] = []

    class Heard:
        def on_body(self, data: bytes) -> None:
            got.append(data)

        def on_message_complete(self) -> None:
            ends.append(1)

    parser = httptools.HttpRequestParser(Heard())
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert (b"".join(got), ends) == (content, [1])


@pytest.mark.parametrize("name", REFUSED_TRAILERS)
@pytest.mark.parametrize("spelling", [bytes.title, bytes.lower, bytes.upper])
def test_trailers_that_frame_route_or_authenticate_are_refused(name: bytes, spelling: object) -> None:
    for make in (ChunkScanner, Dechunker):
        with pytest.raises(Refused) as refused:
            make().take(b"0\r\nX-A: b\r\n" + spelling(name) + b": 1\r\n\r\n")  # type: ignore[operator]
        assert refused.value.status == 400


def test_what_is_not_checked_yet_is_held_back() -> None:
    """`3\\nabc` must not reach an upstream that takes LF for a line's end."""
    scanner = ChunkScanner()
    assert scanner.take(b"3") == (b"", None)
    assert scanner.take(b"\r") == (b"", None)
    assert scanner.take(b"\nab") == (b"3\r\nab", None)
    assert scanner.take(b"c\r") == (b"c\r", None)
    assert scanner.take(b"\n0\r\nX-A: b") == (b"\n0\r\n", None)
    assert scanner.take(b"c\r\n\r") == (b"X-A: bc\r\n", None)
    assert scanner.take(b"\nrest") == (b"\r\n", b"rest")


def test_data_that_passes_whole_is_not_copied() -> None:
    scanner = ChunkScanner()
    data = b"ffff\r\n" + b"x" * 40000
    assert scanner.take(data)[0] is data
    more = b"x" * 20000
    assert scanner.take(more)[0] is more
    last = b"x" * (0xFFFF - 60000) + b"\r\n0\r\n\r\n"
    passed, rest = scanner.take(last)
    assert passed is last
    assert rest == b""


def test_nothing_is_read_behind_the_end() -> None:
    scanner = ChunkScanner()
    assert scanner.take(b"0\r\n\r\n") == (b"0\r\n\r\n", b"")
    assert scanner.take(b"5\r\nhello\r\n") == (b"", b"5\r\nhello\r\n")


def test_signed_uploads_have_room_for_their_extensions() -> None:
    """As S3 clients send them: 64 KB chunks, each with a signature; no matter how many."""
    chunk = b"10000;chunk-signature=" + b"a" * 64 + b"\r\n" + b"x" * 65536 + b"\r\n"
    scanner = ChunkScanner()
    for _ in range(MAX_EXCESS // 64 + 10):
        assert scanner.take(chunk) == (chunk, None)


def test_extensions_without_content_have_not() -> None:
    scanner = ChunkScanner()
    chunk = b"1;a=" + b"b" * 1000 + b"\r\nx\r\n"
    with pytest.raises(Refused, match="out of proportion"):
        scanner.take(chunk * (MAX_EXCESS // 900))


def test_underscores_in_response_trailers_mislead_nobody() -> None:
    body = b"0\r\nX_A: b\r\n\r\n"
    assert ChunkScanner(underscores=True).take(body) == (body, b"")
    assert Dechunker().take(body) == (b"", b"")


@pytest.mark.parametrize("data", [b"3\rX", b"3\nX", b"0\r\nX-A: b\rX"])
def test_a_broken_line_break_is_refused_before_the_line_ends(data: bytes) -> None:
    """Waiting for more would not make it any better, and a peer could wait for ever."""
    with pytest.raises(Refused):
        ChunkScanner().take(data)


def test_trailers_are_kept_for_readers_of_another_framing() -> None:
    dechunker = Dechunker()
    content, rest = dechunker.take(b"2\r\nok\r\n0\r\ngrpc-status: 0\r\nx-sum: 1")
    assert (content, rest, dechunker.trailers) == (b"ok", None, b"grpc-status: 0\r\n")
    assert dechunker.take(b"2\r\n\r\n") == (b"", b"")
    assert dechunker.trailers == b"grpc-status: 0\r\nx-sum: 12\r\n"


def test_trailers_of_another_framing_become_lines_without_those_of_heads() -> None:
    fields = [
        (b"grpc-status", b"5"),
        (b"x-request-id", b"stolen"),
        (b"x-forwarded-for", b"::1"),
        (b"x_sum-bin", b"AAE="),
    ]
    assert trailer_lines(fields) == b"grpc-status: 5\r\nx_sum-bin: AAE=\r\n"


@pytest.mark.parametrize(
    "field",
    [(b":status", b"200"), (b"", b"1"), (b"Upper", b"1"), (b"a b", b"1"), (b"a", b"1\r\nb: 2"), (b"a", b"\x00"),
     (b"a", b"1" * 9000)],
)  # fmt: skip
def test_trailers_that_are_no_headers_are_refused(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(Refused):
        trailer_lines([field])
