"""A request's head whose headers are read late: to a plugin it is a `RequestHead` like any other."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from nexus_core.hooks import RequestHead
from nexus_gateway.edge import requests
from nexus_gateway.edge.heads import UNREAD, ArrivedHead
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
