"""Heads on their way to a server and back: what is sent, what is kept, what is refused."""

from __future__ import annotations

import pytest
from hpack import Decoder as TheirDecoder
from hypothesis import given
from hypothesis import strategies as st
from nexus_wire.http1 import Refused, ResponseParser
from nexus_wire.http2.calls import STATICS, Answers, Calls, encode_trailers, grpc_status, pairs_of

HEAD = b"GET /a?b HTTP/1.1\r\nhost: shop\r\naccept: */*"
OWN = b"\r\nx-request-id: %b\r\ntraceparent: 00-%b-01"


def read(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in TheirDecoder().decode(block, raw=True)]


def kept(calls: Calls) -> bytes:
    return repr([getattr(calls, name) for name in ("_fields", "_hosts", "_lengths", "_beginnings")]).encode()


def test_heads_that_begin_alike_differ_only_where_they_do() -> None:
    calls = Calls(b"https")
    pseudo = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/a?b"), (b":authority", b"shop")]
    for number in (b"1", b"2", b"3" * 200, b"4"):
        block, length = calls.encode(HEAD + OWN % (number, number))
        assert read(block) == [
            *pseudo, (b"accept", b"*/*"), (b"x-request-id", number), (b"traceparent", b"00-" + number + b"-01"),
        ]  # fmt: skip
        assert length == 0
    assert read(calls.encode(HEAD + b"\r\nx-request-id: 5\r\nhost: late")[0])[3] == (b":authority", b"late")


@pytest.mark.parametrize("request_id", [b"", b"1" * 32, b"1" * 126, b"1" * 127, b"1" * 300])
@pytest.mark.parametrize(
    "behind",
    [
        [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")],
        [(b"traceparent", b"00-" + b"a" * 20), (b"x", b"y" * 27)],  # as long as one trace context
        [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"), (b"x", b"y")],
        [(b"tracestate", b"a" * 56)],
        [],
    ],
)
def test_what_follows_a_beginning_is_sent_as_it_is(request_id: bytes, behind: list[tuple[bytes, bytes]]) -> None:
    fields = [(b"x-request-id", request_id), *behind]
    head = HEAD + b"".join(b"\r\n%b: %b" % field for field in fields)
    calls = Calls(b"http")
    for _ in range(3):
        block, length = calls.encode(head)
        assert read(block)[5:] == fields
        assert length == 0


@pytest.mark.parametrize(
    ("line", "length"), [(b"content-length: 12", 12), (b"transfer-encoding: chunked", -1), (b"content-length: 0", 0)]
)
def test_the_bodys_length_is_read_before_and_behind_what_differs(line: bytes, length: int) -> None:
    calls = Calls(b"http")
    for _ in range(3):
        assert calls.encode(HEAD + b"\r\n" + line + OWN % (b"1", b"1"))[1] == length
        assert calls.encode(HEAD + OWN % (b"1", b"1") + b"\r\n" + line)[1] == length


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"x-api-key", b"x-session-token"])
def test_secrets_are_sent_as_such_and_never_kept(name: bytes) -> None:
    calls = Calls(b"http")
    for _ in range(3):
        block, _ = calls.encode(HEAD + b"\r\n" + name + b": hunter2" + OWN % (b"1", b"1"))
        assert (name, b"hunter2") in read(block)
    (field,) = [each for each in TheirDecoder().decode(block, raw=True) if each[0] == name]
    assert not field.indexable
    assert b"hunter2" not in kept(calls)


def test_beginnings_are_kept_once_they_came_again() -> None:
    calls = Calls(b"http")
    calls.encode(HEAD + OWN % (b"1", b"1"))
    assert not calls._beginnings
    calls.encode(HEAD + OWN % (b"2", b"2"))
    assert set(calls._beginnings) == {HEAD}


def test_what_is_kept_is_bounded_and_begins_anew() -> None:
    calls = Calls(b"http")
    for number in range(6000):
        calls.encode(b"GET /%d HTTP/1.1\r\nhost: h%d\r\na: %d\r\ncontent-length: %d" % (number, number, number, number))
    sizes = [len(getattr(calls, name)) for name in ("_fields", "_hosts", "_lengths", "_beginnings")]
    assert max(sizes) <= 4096
    calls.age()
    assert read(calls.encode(HEAD)[0])[-1] == (b"accept", b"*/*")
    assert len(calls._fields) < 10


names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).map(str.encode)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200).map(str.encode)


@given(st.lists(st.tuples(names, values), max_size=6))
def test_any_head_arrives_as_it_is_again_and_again(pairs: list[tuple[bytes, bytes]]) -> None:
    special = {b"host", b"content-length", b"transfer-encoding", b"te", b"connection", b"upgrade", b"keep-alive",
               b"proxy-connection", b"http2-settings", b"content-type"}  # fmt: skip
    pairs = [pair for pair in pairs if pair[0].lower() not in special]
    head = HEAD + b"".join(b"\r\n%b: %b" % pair for pair in pairs) + OWN % (b"1", b"1")
    calls = Calls(b"http")
    for _ in range(3):
        found = read(calls.encode(head)[0])
        assert [(name, value) for name, value in found if name not in (b"x-request-id", b"traceparent")][5:] == [
            (name.lower(), value) for name, value in pairs if name.lower() not in (b"x-request-id", b"traceparent")
        ]


def test_trailers_are_fields_without_pseudo_ones() -> None:
    block = encode_trailers(b"grpc-status: 0\r\nGrpc-Message: a b\r\nconnection: close\r\n")
    assert read(block) == [(b"grpc-status", b"0"), (b"grpc-message", b"a b")]
    assert encode_trailers(b"") == b""


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"grpc-status: 0\r\n", b"0"), (b"a: b\r\ngrpc-status:14\r\nc: d\r\n", b"14"), (b"", b""), (b"xgrpc-status: 1\r\n", b""),
        (b"a: grpc-status: 1\r\n", b""), (b"grpc-status: x\r\n", b""), (b"grpc-status: 12345\r\n", b""), (b"grpc-status: -1\r\n", b""),
    ],
)  # fmt: skip
def test_the_status_of_a_call_is_a_number_or_none(lines: bytes, status: bytes) -> None:
    assert grpc_status(lines) == status


def test_a_response_is_read_by_the_caches_of_its_lines() -> None:
    answers = Answers(ResponseParser())
    fields = [STATICS.digest(*pair) for pair in [(b":status", b"404"), (b"content-length", b"3"), (b"x-a", b"b")]]
    status, block, keep = answers.read(fields)
    assert (status.line, block.length, block.forward, keep) == (
        b"HTTP/1.1 404 Not Found\r\n", 3, b"x-a: b\r\ncontent-length: 3\r\n", True,
    )  # fmt: skip
    assert answers.read(fields)[1] is block
    cookie = STATICS.digest(b"set-cookie", b"a=b")
    assert answers.read([fields[0], cookie])[2] is False
    assert pairs_of(fields[1:]) == [(b"content-length", b"3"), (b"x-a", b"b")]


@pytest.mark.parametrize(
    "pairs",
    [
        [], [(b"a", b"b")], [(b":status", b"20")], [(b":status", b"2 0")], [(b":status", b"099")], [(b":status", b"200"), (b":a", b"b")],
        [(b":status", b"200"), (b"A", b"b")], [(b":status", b"200"), (b"a", b"\n")], [(b":status", b"200"), (b"te ", b"b")],
        [(b":status", b"200"), (b"connection", b"close")], [(b":status", b"200"), (b"content-length", b"x")],
    ],
)  # fmt: skip
def test_heads_that_no_response_may_have_are_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    answers = Answers(ResponseParser())
    for _ in range(2):
        with pytest.raises(Refused):
            answers.read([STATICS.digest(*pair) for pair in pairs])
