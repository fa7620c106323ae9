"""HTTP/2: an independent decoder agrees, HTTP/1.1 reads the same requests, and no bytes break anything."""

from __future__ import annotations

from typing import Any

import hpack as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_wire.http1 import Refused, RequestParser
from nexus_wire.http1.testing import read_request
from nexus_wire.http2 import hpack, huffman, requests
from nexus_wire.http2.frames import ConnectionBroken
from nexus_wire.http2.requests import Malformed, RequestReader, digest

NAMES = st.sampled_from(
    [b"accept", b"x-a", b"x-b", b"cookie", b"content-type", b"user-agent", b"authorization", b"cache-control"]
)
VALUES = st.binary(max_size=40)
FIELDS = st.lists(st.tuples(st.one_of(NAMES, st.binary(min_size=1, max_size=8)), VALUES), max_size=12)


@given(
    st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, 0, 64, 200, 4096])), max_size=12),
    st.randoms(use_true_random=False),
)
def test_what_another_encoder_writes_is_read(blocks: list[tuple[Any, bool, int | None]], draw: Any) -> None:
    """The table evolves over the blocks, with every way to write a field and sizes that change in between."""
    encoder, decoder = reference.Encoder(), hpack.decoder()
    for fields, huffman_coded, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        headers = [
            reference.HeaderTuple(*each) if draw.random() < 0.8 else reference.NeverIndexedHeaderTuple(*each)
            for each in fields
        ]
        assert decoder.decode(encoder.encode(headers, huffman=huffman_coded)) == fields


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_is_read_as_another_decoder_reads_it_or_ends_the_connection(blocks: list[bytes]) -> None:
    ours, theirs = hpack.decoder(), reference.Decoder()
    theirs.max_allowed_table_size = 4096
    for block in blocks:
        try:
            found = ours.decode(block)
        except ConnectionBroken:
            return
        assert [tuple(each) for each in theirs.decode(block, raw=True)] == found


PIECES = st.one_of(
    st.sampled_from(
        [b"\x88", b"\x5f\x01a", b"\x5f\x01b", b"\x40\x01n\x02vv", b"\x00\x01n\x01w", b"\x10\x01n\x01w", b"\x0f\x10\x01z",
         b"\xbe", b"\xbf", b"\xc0", b"\x7e\x01q", b"\x7f\x00\x01r", b"\x0f\x30\x01s", b"\xff\x01", b"\x54\x7f\xb1\x1f" + b"l" * 4144]
    ),
)  # fmt: skip
SMALL_BLOCKS = st.lists(PIECES, max_size=4).map(b"".join)
SIZES = st.sampled_from([b"", b"", b"", b"", b"\x20", b"\x3f\x21", b"\x3f\xe1\x1f"])


@given(st.lists(st.tuples(SIZES, SMALL_BLOCKS).map(b"".join), min_size=1, max_size=4), st.data())
def test_blocks_that_last_need_not_be_read_again(pool: list[bytes], data: st.DataObject) -> None:
    """One decoder reads all blocks; the other is told of those that came before and refer to nothing in the table."""
    plain, keeping = hpack.decoder(), hpack.decoder()
    kept: dict[bytes, Any] = {}
    for block in data.draw(st.lists(st.sampled_from(pool), max_size=30)) * data.draw(st.sampled_from([1, 1, 20])):
        try:
            expected = plain.decode(block)
        except ConnectionBroken:
            with pytest.raises(ConnectionBroken):
                keeping.decode(block)
            return
        if block in kept:
            found, entered = kept[block]
            if entered:
                keeping.again(entered)
        else:
            found = keeping.decode(block)
            if keeping.lasting:
                kept[block] = found, keeping.entered
        assert found == expected


@given(st.binary(max_size=80))
def test_huffman_coded_strings_are_read_as_by_the_reference(data: bytes) -> None:
    encoder = reference.huffman.HuffmanEncoder(
        reference.huffman_constants.REQUEST_CODES, reference.huffman_constants.REQUEST_CODES_LENGTH
    )
    assert huffman.decode(encoder.encode(data)) == data


@given(st.lists(st.tuples(NAMES, st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))))
def test_lines_that_become_fields_become_the_same_lines_again(pairs: list[tuple[bytes, str]]) -> None:
    encoder = hpack.Encoder()
    fields = [(name, value.encode()) for name, value in pairs]
    lines = b"".join(b"%b: %b\r\n" % each for each in fields)
    for _ in range(2):
        assert reference.Decoder().decode(encoder.lines(lines), raw=True) == fields


# ---- HTTP/1.1 and HTTP/2 read the same

METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"TRACE", b"get", b"M-SEARCH", b"QUERY", b"P0ST"])
PATHS = st.one_of(
    st.sampled_from(
        [b"/", b"/a/b", b"/a//b/../c", b"/%41", b"/%2e", b"/a?b=c&d", b"/a?", b"/..", b"*", b"/a;b=c/./d", b"/a%zz", b"/a b",
         b"/\xc3\xa4", b"/a#b", b"/a?x=%00"]
    ),
    st.text(st.sampled_from("abz09/.%2eFf;=?&~_-"), max_size=30).map(lambda path: b"/" + path.encode()),
)  # fmt: skip
HOSTS = st.sampled_from(
    [b"shop.example", b"SHOP.example.", b"a:8080", b"[::1]:1", b"[::1", b"", b"a b", b"a@b", b"a:99999", b"1.2.3.4"]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"accept", b"x-a", b"x_b", b"authorization", b"content-length", b"expect", b"te", b"x-forwarded-for", b"forwarded",
             b"trailer", b"proxy-authorization", b"traceparent", b"cookie"]
        ),
        st.one_of(
            st.sampled_from([b"1", b"0", b"12", b"trailers", b"100-continue", b"", b"a, b", b"\xc3\xa4", b"+1", b"x" * 2000]),
            st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(str.encode),
        ),
    ),
    max_size=8,
)  # fmt: skip
SEEN = (
    "aside", "authority", "close", "expects", "forward", "has_host", "headers", "host", "joined", "keep_alive", "length", "passed",
    "port", "sized", "trailers", "upgrade",
)  # fmt: skip
ASIDE = {b"x-forwarded-for", b"forwarded", b"traceparent"}


def as_http_1(method: bytes, path: bytes, host: bytes, headers: list[tuple[bytes, bytes]]) -> Any:
    cookies = [value for name, value in headers if name == b"cookie"]
    lines = [b"%b: %b\r\n" % each for each in headers if each[0] != b"cookie"]
    if cookies:
        lines.append(b"cookie: %b\r\n" % b"; ".join(cookies))
    raw = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (method, path, host, b"".join(lines))
    request = read_request(RequestParser(aside=ASIDE), raw + b"x" * 20)
    return request.line, request.block


def as_http_2(method: bytes, path: bytes, host: bytes, headers: list[tuple[bytes, bytes]]) -> Any:
    encoder, decoder = reference.Encoder(), hpack.Decoder(requests.STATICS)
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", host), *headers]
    reader = RequestReader(RequestParser(aside=ASIDE), lambda: bytes(16))
    first = reader.read(decoder.decode(encoder.encode(fields)))
    # The second time all is in the client's table, and in the parser's caches.
    again = reader.read(decoder.decode(encoder.encode(fields)))
    assert [getattr(again[1], name) for name in SEEN] == [getattr(first[1], name) for name in SEEN]
    return first


@given(METHODS, PATHS, HOSTS, HEADERS)
def test_the_same_request_is_the_same_whichever_version_brings_it(
    method: bytes, path: bytes, host: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    try:
        theirs = as_http_1(method, path, host, headers)
    except Refused as refused:
        theirs = (refused.status, refused.reason)
    try:
        line, block = as_http_2(method, path, host, headers)
    except Refused as refused:
        ours = (refused.status, refused.reason)
        assert theirs == ours
        return
    except Malformed:
        # HTTP/2 itself forbids more than HTTP/1.1 does: a path that is none, `te` with anything but trailers.
        assert any(name == b"te" and value.lower() != b"trailers" for name, value in headers)
        return
    assert len(theirs) == 2
    assert not isinstance(theirs[0], int), theirs
    for name in ("authority", "method", "minor", "path", "query", "start"):
        assert getattr(line, name) == getattr(theirs[0], name)
    for name in SEEN:
        assert getattr(block, name) == getattr(theirs[1], name), name


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=6))
def test_no_fields_pose_as_others(pairs: list[tuple[bytes, bytes]]) -> None:
    """Whatever bytes names and values are of: what is taken has as many lines as fields, and not a byte that ends a line."""
    fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"), *pairs]
    try:
        _, block = RequestReader(RequestParser(), lambda: bytes(16)).read([digest(*each) for each in fields])
    except (Refused, Malformed):
        return
    others = [name for name, _ in pairs if name not in (b"cookie", b"host")]
    cookies = [name for name, _ in pairs if name == b"cookie"]
    assert block._raw.count(b"\n") == len(others) + bool(cookies)
