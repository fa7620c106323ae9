"""Heads as plugins may see them, and what may come of what they return."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Headers, NotGranted, Operation, Reply, RequestHead, ResponseHead, Socket
from nexus_core.hooks.specs import HOOKS, HookSpec
from nexus_core.snapshot import Permissions
from nexus_hosting.permits import Names, Permits

REAL = (
    ("host", "x"),
    ("authorization", "secret"),
    ("x-acme-a", "1"),
    ("accept", "*/*"),
    ("x-acme-a", "2"),
    ("cookie", "c"),
)
HEAD = RequestHead("GET", "/", "a=b", "x", REAL, "1.2.3.4", "r")


def permits(read: tuple[str, ...] = (), write: tuple[str, ...] = ()) -> Permits:
    return Permits(Permissions(read_headers=read, write_headers=write))


@pytest.mark.parametrize(
    ("patterns", "name", "there"),
    [
        (("*",), "anything", True), (("x-acme-*",), "x-acme-a", True), (("x-acme-*",), "x-acme", False),
        (("Cookie",), "cookie", True), ((), "cookie", False), (("cookie",), "cookie2", False), (("a*", "b"), "b", True),
    ],
)  # fmt: skip
def test_names(patterns: tuple[str, ...], name: str, there: bool) -> None:
    assert (name in Names(patterns)) is there


def test_whoever_may_all_is_given_the_head_itself() -> None:
    free = permits(("*",), ("*",))
    assert not free.limits
    assert free.request(HEAD) is HEAD
    assert permits(("*",)).limits


def test_a_head_shows_what_may_be_read() -> None:
    seen = permits(("x-acme-*", "host")).request(HEAD)
    assert seen.headers == (("host", "x"), ("x-acme-a", "1"), ("x-acme-a", "2"))
    assert (seen.header("x-acme-a"), seen.header("authorization"), seen.header("cookie")) == ("1", None, None)
    assert (seen.method, seen.path, seen.query, seen.client_ip) == ("GET", "/", "a=b", "1.2.3.4")
    assert seen == RequestHead("GET", "/", "a=b", "x", seen.headers, "1.2.3.4", "r")
    assert "secret" not in repr(seen)


@pytest.mark.parametrize(
    ("read", "write", "change", "after"),
    [
        # Added behind what is there: the usual change keeps the pairs before it as they are.
        (("accept",), ("x-new",), lambda h: h.with_header("x-new", "1"), (*REAL, ("x-new", "1"))),
        # One that it cannot see is replaced, not doubled.
        ((), ("cookie",), lambda h: h.with_header("cookie", "new"), (*REAL[:-1], ("cookie", "new"))),
        (
            ("x-acme-*",),
            ("x-acme-*",),
            lambda h: h.without_header("x-acme-a"),
            tuple(p for p in REAL if p[0] != "x-acme-a"),
        ),
        (("accept",), ("accept",), lambda h: h.with_headers(()), tuple(p for p in REAL if p[0] != "accept")),
        ((), (), lambda h: RequestHead("PUT", "/b", "", "y", h.headers, h.client_ip, h.route), REAL),
    ],
)
def test_changes_are_merged(read: tuple[str, ...], write: tuple[str, ...], change: object, after: Headers) -> None:
    guarded = permits(read, write).guard_request(change)  # type: ignore[arg-type]
    result = guarded(HEAD)
    assert isinstance(result, RequestHead)
    assert result.headers == after
    if after[: len(REAL)] == REAL:
        assert all(one is other for one, other in zip(result.headers, REAL, strict=False))


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.with_header("authorization", "mine"),
        lambda head: head.with_header("Authorization", "mine"),
        lambda head: head.with_header("accept", "text/html"),
        lambda head: head.without_header("accept"),
        lambda head: head.with_headers(()),
        lambda head: head.with_headers((("accept", "*/*"), ("accept", "*/*"))),
    ],
)
def test_what_is_not_granted_is_refused(change: object) -> None:
    with pytest.raises(NotGranted, match=r"spec\.grants\.headers\.write"):
        permits(("accept",), ("x-acme-*",)).guard_request(change)(HEAD)  # type: ignore[arg-type]


def test_a_hook_that_changes_nothing_gives_the_real_head_back() -> None:
    assert permits().guard_request(lambda head: head)(HEAD) is HEAD
    response = ResponseHead(200, (("set-cookie", "a"),))
    assert permits().guard_response(lambda request, head: head)(HEAD, response) is response


def test_replies_and_wrong_types_pass_to_whoever_checks_them() -> None:
    reply = Reply(401, (("www-authenticate", "Basic"),))
    assert permits().guard_request(lambda head: reply)(HEAD) is reply
    assert permits().guard_request(lambda head: None)(HEAD) is None
    assert permits().guard_body(lambda head, body: b"new")(HEAD, b"") == b"new"


names = st.sampled_from(["accept", "cookie", "x-acme-a", "x-acme-b", "host"])
headers = st.lists(st.tuples(names, st.sampled_from("12")), max_size=6).map(tuple)


@given(real=headers, after=headers, read=st.sets(names), write=st.sets(names))
def test_nothing_but_what_is_granted_ever_changes(
    real: Headers, after: Headers, read: set[str], write: set[str]
) -> None:
    """Whatever a plugin returns: it is refused, or only headers it may write differ; with all of both, it is what it returned."""

    def values(pairs: Headers, name: str) -> list[str]:
        return [value for each, value in pairs if each == name]

    head = RequestHead("GET", "/", headers=real)
    try:
        result = permits(tuple(read), tuple(write)).guard_request(lambda seen: seen.with_headers(after))(head)
    except NotGranted:
        return
    assert isinstance(result, RequestHead)
    for name in ("accept", "cookie", "x-acme-a", "x-acme-b", "host"):
        if name not in write:
            assert values(result.headers, name) == values(real, name)
        elif name in read or name in dict(after):
            assert values(result.headers, name) == values(after, name)


OPERATION = Operation("query", "{ a }", headers=REAL)
GIVEN = {
    "request": HEAD,
    "response": ResponseHead(200, REAL),
    "body": b"",
    "socket": Socket("1", HEAD),
    "operation": OPERATION,
}
WITH_HEADERS = [
    spec for spec in HOOKS if {name for name, _ in spec.arguments} & {"request", "response", "socket", "operation"}
]


@pytest.mark.parametrize("spec", WITH_HEADERS, ids=lambda spec: spec.name)
def test_every_hook_sees_only_what_it_may(spec: HookSpec) -> None:
    seen: list[object] = []
    guarded = permits(("accept",)).guard(spec.name, lambda *given: seen.extend(given))
    guarded(*[GIVEN.get(name) for name, _ in spec.arguments])
    heads = [each.request if isinstance(each, Socket) else each for each in seen]
    shown = [each.headers for each in heads if isinstance(each, RequestHead | ResponseHead | Operation)]
    assert shown
    assert set(shown) == {(("accept", "*/*"),)}


def test_an_operation_keeps_the_headers_that_its_plugin_does_not_see() -> None:
    guarded = permits(("accept",)).guard_operation(lambda seen: seen.with_variables({"a": 1}))
    result = guarded(OPERATION)
    assert isinstance(result, Operation)
    assert (result.variables, result.headers) == ({"a": 1}, REAL)
    assert permits().guard_operation(lambda seen: seen)(OPERATION) is OPERATION
    with pytest.raises(NotGranted):
        permits().guard_operation(lambda seen: replace(seen, headers=(("cookie", "mine"),)))(OPERATION)


async def test_what_has_to_be_awaited_is_merged_then() -> None:
    async def asks(seen: Operation) -> Operation:
        return seen.with_variables({"a": len(seen.headers)})

    async def adds(seen: RequestHead) -> RequestHead:
        return seen.with_header("x-new", "1")

    result: Any = permits(("accept",)).guard_operation(asks)(OPERATION)
    assert (await result).variables == {"a": 1}
    made: Any = permits((), ("x-new",)).guard_request(adds)(HEAD)
    assert (await made).headers == (*REAL, ("x-new", "1"))
