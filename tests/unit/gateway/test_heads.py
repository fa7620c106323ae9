"""A request's head whose headers are read late: to a plugin it is a `RequestHead` like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import RequestHead
from nexus_gateway.edge import heads, requests
from nexus_gateway.edge.heads import NOTHING, UNREAD, ArrivedHead, latest
from nexus_wire.http1 import RequestParser
from nexus_wire.http1.requests import RequestBlock

OWN = (("host", "a"), ("x-forwarded-for", "10.0.0.1"), ("x-client-ip", "10.0.0.2"))
LINES = b"host: a\r\nx-forwarded-for: 10.0.0.1\r\nx-client-ip: 10.0.0.2\r\n"
RAW = b"Host: a\r\nX-One: 1\r\nx-two:  2 \r\nX-One: 3\r\nConnection: x-gone\r\nX-Gone: 4\r\nX-Request-Id: client's\r\nX-Real-IP: 9.9.9.9"
HEADERS = (*OWN, ("x-one", "1"), ("x-two", "2"), ("x-one", "3"), ("x-request-id", "rid"))
READ = RequestHead("GET", "/p", "q", "a", HEADERS, "10.0.0.1", "r")


def block(raw: bytes = RAW) -> RequestBlock:
    return RequestParser(aside=requests.ASIDE, drop=requests.DROP).block(raw)


def arrived() -> ArrivedHead:
    return ArrivedHead("GET", "/p", "q", "a", UNREAD, "10.0.0.1", "r", {}, block(), LINES, b"rid")


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "x-forwarded-for",
        "x-one",
        "x-two",
        "x-request-id",
        "x-gone",
        "x-real-ip",
        "x-client-ip",
        "connection",
        "x",
        "one",
        "x-one: 1\r\nx-two",
    ],
)
@pytest.mark.parametrize("read", [False, True])
def test_one_header_is_the_same_read_early_or_late(name: str, read: bool) -> None:
    head = arrived()
    if read:
        assert head.headers == HEADERS
    assert head.header(name) == READ.header(name)


def test_it_is_equal_to_what_it_stands_for() -> None:
    one, other = arrived(), READ
    assert one == other
    assert other == one
    assert hash(arrived()) == hash(READ)
    assert repr(arrived()) == repr(READ)
    assert arrived().headers is not UNREAD


def test_headers_are_made_once() -> None:
    head = arrived()
    assert head.headers is head.headers


def test_it_cannot_be_changed_in_place() -> None:
    head = arrived()
    with pytest.raises(AttributeError):
        head.path = "/other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        head.headers = ()  # type: ignore[misc]


def test_copies_of_all_kinds_are_what_was_asked_for() -> None:
    assert arrived().with_header("x-one", "5").headers == (
        *OWN,
        ("x-two", "2"),
        ("x-request-id", "rid"),
        ("x-one", "5"),
    )
    assert arrived().without_header("x-one").header("x-one") is None
    for replaced in (dataclasses.replace(arrived(), headers=()), msgspec.structs.replace(arrived(), headers=())):
        assert replaced.headers == ()
        assert replaced.header("x-one") is None
    for replaced in (dataclasses.replace(arrived(), path="/n"), msgspec.structs.replace(arrived(), path="/n")):
        assert replaced == dataclasses.replace(READ, path="/n")


@pytest.mark.parametrize("value", [b"caf\xc3\xa9", b"caf\xe9", b"", b"a:b"])
def test_one_header_is_text_as_all_of_them_are(value: bytes) -> None:
    found = block(b"Host: a\r\nX-Bad: \xff\r\nX-V: " + value)
    assert found.first("x-v") == dict(found.passed)["x-v"]


# ---- headers that are only added


@pytest.fixture(autouse=True)
def _over() -> Iterator[None]:
    yield
    latest.head = None


def test_what_is_only_added_is_the_clients_bytes_and_lines_more() -> None:
    latest.head = head = arrived()
    one = head.with_header("x-new", "1")
    assert one is latest.head
    two = one.with_header("x-more", "caf\u00e9")
    assert isinstance(two, ArrivedHead)
    assert two.added == b"\r\nx-new: 1\r\nx-more: caf\xc3\xa9\r\n"
    assert two.headers == (*HEADERS, ("x-new", "1"), ("x-more", "caf\u00e9"))
    assert (two.header("x-new"), two.header("x-more"), two.header("x-two")) == ("1", "caf\u00e9", "2")
    assert (head.added, head.headers) == (NOTHING, HEADERS)


def test_one_that_was_added_is_replaced_as_any_other() -> None:
    latest.head = arrived()
    found = latest.head.with_header("x-new", "x-more: 1").with_header("x-more", "1").with_header("x-new", "3")
    assert found is latest.head
    assert found.headers == (*HEADERS, ("x-more", "1"), ("x-new", "3"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-one", "5"),  # there is one
        ("x-gone", "5"),  # a look would find it, though it is not passed on
        ("x-request-id", "5"), ("host", "b"), ("x-client-ip", "5"), ("x-forwarded-port", "5"), ("x-forwarded-for", "5"),  # ours
        ("content-length", "5"), ("connection", "close"), ("traceparent", "5"),  # in which plugins have no say
        ("X-New", "5"), ("x new", "5"), ("", "5"),  # no lower-case name
        ("x-new", "5\r\nx-worse: 6"), ("x-new", "\x00"), ("x-new", "\ud800"), ("x-new", "5" * 70000),
    ],
)  # fmt: skip
def test_what_is_more_than_an_added_line_is_made_as_ever_and_looked_at_by_who_gets_it(name: str, value: str) -> None:
    latest.head = head = arrived()
    found = head.with_header(name, value)
    assert latest.head is head
    assert type(found) is RequestHead
    assert found == READ.with_header(name, value)


@pytest.mark.parametrize(("name", "value"), [("x-new", 5), (b"x-new", "5"), ("x-new", ["5"]), ({}, "5")])
def test_what_is_no_text_is_left_to_who_gets_it(name: object, value: object) -> None:
    latest.head = head = arrived()
    found = head.with_header(name, value)  # type: ignore[arg-type]
    assert latest.head is head
    assert found.headers[-1] == (name, value)


def test_only_what_was_made_of_the_head_that_a_hook_was_given_counts() -> None:
    given_head = arrived()
    latest.head = given_head
    other = arrived().with_header("x-new", "1")
    copied = msgspec.structs.replace(given_head, path="/other").with_header("x-new", "1")
    assert latest.head is given_head
    assert (type(other), type(copied), copied.path) == (RequestHead, RequestHead, "/other")
    made = given_head.with_header("x-new", "1")
    assert latest.head is made
    of_the_first = given_head.with_header("x-more", "1")  # it was given up for another
    assert latest.head is made
    assert of_the_first.headers == (*HEADERS, ("x-more", "1"))


def test_what_is_kept_for_the_next_request_is_bounded_and_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_MAX_STEPS", 8)
    heads._steps.clear()
    heads._kept.intersection_update({NOTHING})
    for number in range(100):
        latest.head = arrived()
        head = (
            latest.head.with_header("x-new", str(number))
            .with_header("authorization", "hidden")
            .with_header("x-more", "1")
        )
        assert head is latest.head
        assert head.headers == (*HEADERS, ("x-new", str(number)), ("authorization", "hidden"), ("x-more", "1"))
    assert 0 < len(heads._steps) <= 8
    assert len(heads._kept) <= 16
    assert not any(b"hidden" in lines for step in heads._steps.items() for lines in (step[0][0], step[1][0]))


def test_lines_are_added_up_to_a_limit() -> None:
    latest.head = head = arrived()
    for number in range(200):
        head = head.with_header(f"x-{number}", "v" * 1000)  # type: ignore[assignment]
    assert type(head) is RequestHead
    assert len(head.headers) == len(HEADERS) + 200


NAMES = st.sampled_from(
    [
        "x-one",
        "x-two",
        "x-new",
        "x-more",
        "x-gone",
        "x-real-ip",
        "x-forwarded-for",
        "host",
        "x-a",
        "a",
        "content-length",
    ]
)


@given(st.lists(st.tuples(NAMES, st.text(st.characters(codec="utf-8"), max_size=6)), max_size=8), st.booleans())
def test_it_is_equal_whatever_is_added_in_which_order(changes: list[tuple[str, str]], read: bool) -> None:
    head: RequestHead = arrived()
    latest.head = head
    plain = READ
    for name, value in changes:
        head, plain = head.with_header(name, value), plain.with_header(name, value)
        if read:
            assert head.headers == plain.headers
        assert head.header(name) == plain.header(name) == value
    assert head == plain
    assert head.headers == plain.headers
