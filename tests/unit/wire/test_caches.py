"""What parsers keep of what they read: nothing secret, nothing without bound, nothing unchecked."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from nexus_wire.http1 import Refused, RequestParser, ResponseParser
from nexus_wire.http1.fields import MAX_CACHED, SECRET
from nexus_wire.http1.testing import read_request

WORD = b"s3cr3t-v4lu3"


def reachable(thing: object) -> Iterator[object]:
    """Yield all that an object holds, however deep, but not its classes and their modules."""
    seen: set[int] = set()
    todo: list[object] = [thing]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type) or type(each).__name__ == "module":
            continue
        seen.add(id(each))
        yield each
        if type(each).__name__ == "function":
            todo.extend(cell.cell_contents for cell in each.__closure__ or ())  # type: ignore[attr-defined]
        else:
            todo.extend(gc.get_referents(each))


def keeps(thing: object, word: bytes) -> bool:
    text = word.decode()
    return any(
        (isinstance(each, bytes) and word in each) or (isinstance(each, str) and text in each)
        for each in reachable(thing)
    )


def test_the_search_for_secrets_finds_what_is_kept() -> None:
    parser = RequestParser()
    parser.block(b"Host: a\r\nX-Plain: " + WORD)
    assert keeps(parser, WORD)


@pytest.mark.parametrize(
    "name", [*sorted(SECRET), b"X-Shop-Secret", b"my-session-id", b"X-Db-Password", b"AUTHORIZATION"]
)
def test_no_secret_is_kept(name: bytes) -> None:
    requests = RequestParser(aside=(b"x-nexus-debug",))
    responses = ResponseParser()
    raw = b"Host: a\r\nAccept: b\r\n%b: %b" % (name, WORD)
    for _ in range(3):
        block = requests.block(raw)
        assert block.joined[name.decode().lower()] == WORD.decode()
        assert responses.block(raw).headers
    assert raw not in requests.blocks
    assert raw not in responses.blocks
    del block
    assert not keeps(requests, WORD)
    assert not keeps(responses, WORD)


def test_long_queries_are_not_kept() -> None:
    """They hardly come again, and hold signatures and tokens."""
    parser = RequestParser()
    for query in (b"signature=" + WORD * 8, b"a/../b?token=" + WORD * 8):
        parser.line(b"GET /x?" + query + b" HTTP/1.1")
    assert not keeps(parser, WORD)
    short = b"GET /x?page=2 HTTP/1.1"
    assert parser.lines.get(short) is None
    found = parser.line(short)
    assert parser.lines[short] is found


def test_a_block_that_comes_again_is_one_probe() -> None:
    parser = RequestParser()
    raw = b"Host: a\r\nAccept: */*\r\nConnection: keep-alive"
    first = parser.block(raw)
    assert parser.blocks[raw] is first
    again = read_request(parser, b"GET / HTTP/1.1\r\n" + raw + b"\r\n\r\n")
    assert again.block is first
    assert again.line is parser.lines[b"GET / HTTP/1.1"]


def test_nothing_that_is_refused_is_kept() -> None:
    parser = RequestParser()
    bad = [
        b"Host: a\r\nX-A: b\x00c", b"Host: a\r\nX-A : b", b"Host: a\r\nX_A: b", b"Host: a\r\nX-A: b\r\n c",
        b"Host: a\r\nX-A: b\nX-B: c", b"Host: a b", b"Host: a\r\nContent-Length: 1\r\nContent-Length: 1",
    ]  # fmt: skip
    for raw in bad * 2:
        with pytest.raises(Refused):
            parser.block(raw)
        assert raw not in parser.blocks
    for line in (b"X-A: b\x00c", b"X-A : b", b"X_A: b", b" c", b"X-A: b\nX-B: c"):
        assert line not in parser._fields.plain
        assert line not in parser._fields.special
    for line in (b"GET /a#b HTTP/1.1", b"TRACE / HTTP/1.1", b"GET /.. HTTP/1.1", b"GET / HTTP/2.0"):
        with pytest.raises(Refused):
            parser.line(line)
        assert line not in parser.lines


def test_a_known_line_is_no_excuse_for_the_line_beside_it() -> None:
    parser = RequestParser()
    parser.block(b"Host: a\r\nX-A: b")
    for raw in (
        b"Host: a\r\nX-A: b\r\nX-C: d\x00",
        b"X-C: \n\r\nHost: a\r\nX-A: b",
        b"Host: a\r\nX-A: b\r",
        b"Host: a\r\nX-A: b\r\n",
    ):
        with pytest.raises(Refused):
            parser.block(raw)


def test_known_halves_are_checked_as_a_whole() -> None:
    """Line and block that are each known may still not belong together."""
    parser = RequestParser()
    read_request(parser, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    read_request(parser, b"GET / HTTP/1.0\r\n\r\n")
    read_request(parser, b"POST / HTTP/1.0\r\nHost: a\r\n\r\n")
    with pytest.raises(Refused):
        read_request(parser, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    with pytest.raises(Refused):
        read_request(parser, b"POST / HTTP/1.1\r\n\r\n")


def test_names_whose_values_are_always_new_are_kept_no_more() -> None:
    parser = RequestParser()
    for number in range(2000):
        parser.block(b"Host: a\r\nX-Nonce: %d" % number)
    assert len(parser._fields.plain) == 256
    assert len(parser.blocks) == 256
    # Other headers are known and kept as before.
    raw = b"Host: a\r\nAccept: new"
    parser.block(raw)
    assert raw in parser.blocks
    parser.age()
    parser.block(b"Host: a\r\nX-Nonce: again")
    assert b"Host: a\r\nX-Nonce: again" in parser.blocks


def test_request_caches_are_bounded_and_begin_anew_only_when_full() -> None:
    parser = RequestParser(aside=(b"x-request-id",))
    for number in range(MAX_CACHED + 500):
        parser.line(b"GET /%d HTTP/1.1" % number)
        parser.block(b"Host: h%d.example\r\nX-%d: %d\r\nConnection: x-%d" % (number, number % 3000, number, number))
        if number % 200 == 0:
            parser._fields.age()
        if number == 100:
            parser.age()
            assert len(parser.lines) == 101
    kept = (parser.lines, parser.blocks, parser._hosts, parser._fields.plain, parser._fields.special)
    assert len(parser.lines) == MAX_CACHED
    assert all(len(each) <= MAX_CACHED for each in kept)
    assert len(parser._fields.names) <= 2048
    assert len(parser._options._kept) <= 256
    parser.age()
    assert not parser.lines
    assert parser.line(b"GET /1 HTTP/1.1").path == "/1"


def test_methods_made_up_by_clients_do_not_pile_up() -> None:
    parser = RequestParser()
    for number in range(200):
        parser.line(b"X%b / HTTP/1.1" % (b"A" * (number % 20) + b"B" * (number // 20)))
    assert len(parser._methods) == 64
    parser.age()
    assert not parser._methods


def test_response_caches_are_bounded() -> None:
    parser = ResponseParser()
    for number in range(MAX_CACHED + 500):
        parser.status(b"HTTP/1.1 200 reason %d" % number)
        parser.block(b"X-%d: %d" % (number % 100, number))
        if number % 200 == 0:
            parser._fields.age()
    assert len(parser.statuses) == 512
    assert len(parser.blocks) <= MAX_CACHED
    parser.age()
    assert not parser.statuses


def test_long_lines_and_blocks_are_not_kept() -> None:
    parser = RequestParser()
    parser.line(b"GET /" + b"a" * 300 + b" HTTP/1.1")
    parser.block(b"Host: a\r\nX-A: " + b"b" * 300)
    parser.block(b"Host: a\r\n" + b"\r\n".join(b"X-%d: %b" % (i, b"c" * 100) for i in range(12)))
    assert not parser.lines
    assert not parser.blocks
