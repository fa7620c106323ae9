"""Heads as plugins in the gateway may see them: whatever is spared there, it ends as `nexus_hosting.permits` has it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from nexus_core.hooks import NotGranted, RequestHead
from nexus_core.snapshot import Permissions
from nexus_gateway.edge import requests
from nexus_gateway.edge.heads import UNREAD, ArrivedHead, latest
from nexus_gateway.edge.plugins.permits import Permits
from nexus_hosting import permits as slow
from nexus_wire.http1 import RequestParser


def permits(read: tuple[str, ...] = (), write: tuple[str, ...] = ()) -> Permits:
    return Permits(Permissions(read_headers=read, write_headers=write))


names = st.sampled_from(["accept", "cookie", "x-acme-a", "x-acme-b", "host"])

RAW = b"Host: x\r\nAuthorization: secret\r\nX-Acme-A: 1\r\nAccept: */*\r\nX-Acme-A: 2\r\nCookie: c"


def arrived() -> ArrivedHead:
    block = RequestParser(aside=requests.ASIDE, drop=requests.DROP).block(RAW)
    return ArrivedHead("GET", "/", "a=b", "x", UNREAD, "1.2.3.4", "r", {}, block, b"host: x\r\n", b"rid")


@given(
    changes=st.lists(st.tuples(st.sampled_from(["accept", "x-acme-a", "x-acme-b", "x-new", "host"]), st.sampled_from("12")), max_size=4),
    read=st.sets(names | st.just("*")),
    write=st.sets(names | st.sampled_from(["x-new", "*"])),
)  # fmt: skip
def test_a_head_that_is_only_added_to_ends_as_any_other(
    changes: list[tuple[str, str]], read: set[str], write: set[str]
) -> None:
    seen: list[object] = []

    def change(head: RequestHead) -> RequestHead:
        for name, value in changes:
            head = head.with_header(name, value)
            seen.append((head.header(name), head.header("cookie"), head.headers))
        return head

    granted = Permissions(read_headers=tuple(read), write_headers=tuple(write))

    def outcome(head: RequestHead, limits: slow.Permits) -> object:
        seen.clear()
        try:
            result = limits.guard_request(change)(head)
        except NotGranted as refused:
            return str(refused)
        return result, tuple(seen)

    plain = arrived()
    expected = outcome(RequestHead("GET", "/", "a=b", "x", plain.headers, "1.2.3.4", "r"), slow.Permits(granted))
    latest.head = head = arrived()
    try:
        assert outcome(head, Permits(granted)) == expected
        assert latest.seen is None
    finally:
        latest.head = None


def test_what_was_granted_and_only_added_needs_no_other_look() -> None:
    def change(head: RequestHead) -> RequestHead:
        assert head.header("authorization") is None
        return head.with_header("x-new", "1").with_header("x-acme-b", "2")

    latest.head = arrived()
    try:
        result = permits((), ("x-new", "x-acme-*")).guard_request(change)(latest.head)
        assert result is latest.head
    finally:
        latest.head = None
    assert isinstance(result, ArrivedHead)
    assert result.added == b"\r\nx-new: 1\r\nx-acme-b: 2\r\n"


def test_a_view_that_was_changed_otherwise_does_not_pass_for_one_that_was_added_to() -> None:
    def change(head: RequestHead) -> RequestHead:
        return structs.replace(head.with_header("x-new", "1"), path="/other")

    latest.head = head = arrived()
    try:
        result = permits((), ("x-new",)).guard_request(change)(head)
        assert result is not latest.head
    finally:
        latest.head = None
    assert isinstance(result, RequestHead)
    assert (result.path, result.headers) == ("/other", (*head.headers, ("x-new", "1")))


def test_a_view_shows_what_may_be_read() -> None:
    head = arrived()
    seen = permits(("x-acme-*", "host")).request(head)
    assert seen == slow.Permits(Permissions(read_headers=("x-acme-*", "host"), write_headers=())).request(head)
    assert (seen.header("x-acme-a"), seen.header("authorization"), seen.header("cookie")) == ("1", None, None)
    assert "secret" not in repr(seen)
