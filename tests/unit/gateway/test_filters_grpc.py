"""The gateway's own answers to gRPC calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Reply
from nexus_gateway.edge import replies
from nexus_gateway.filters import grpc


@pytest.mark.parametrize(
    ("content_type", "calls"),
    [
        ("application/grpc", True), ("application/grpc+proto", True), ("Application/gRPC;charset=utf-8", True),
        ("application/grpc-web", False), ("application/grpc-web+proto", False), ("application/grpcx", False), ("text/plain", False),
        ("", False), (None, False),
    ],
)  # fmt: skip
def test_calls_are_told_by_their_content_type(content_type: str | None, calls: bool) -> None:
    assert grpc.is_call(content_type) is calls


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (400, "BadRequest", 13), (401, "", 16), (403, "", 7), (404, "RouteNotFound", 12), (429, "RateLimited", 14),
        (502, "UpstreamReset", 14), (503, "CircuitOpen", 14), (504, "", 14), (504, "RequestTimeout", 4), (500, "BackendNotFound", 14),
        (500, "NoBackends", 14), (500, "InternalError", 13), (413, "BodyTooLarge", 8), (418, "", 2), (500, "", 2),
    ],
)  # fmt: skip
def test_statuses_follow_grpcs_mapping_but_where_the_reason_says_more(status: int, reason: str, code: int) -> None:
    assert grpc.status_of(status, reason) == code


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, 200), (1, 499), (2, 500), (3, 400), (4, 504), (5, 404), (6, 409), (7, 403), (8, 429), (9, 400), (10, 409), (11, 400),
        (12, 404), (13, 500), (14, 503), (15, 500), (16, 401), (17, 500), (999, 500),
    ],
)  # fmt: skip
def test_a_services_status_means_one_of_http(code: int, status: int) -> None:
    assert grpc.http_status_of(code) == status


def test_a_problem_becomes_its_title_and_detail() -> None:
    reply = grpc.build_reply(replies.problem("RateLimited", "r", "Wait.", retry_after_s=2.0), 14)
    assert reply == Reply(
        200,
        (("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-message", "Too many requests: Wait."),
         ("retry-after", "2")),
        b"",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(403, (), b"no"), "Forbidden"),
        (Reply(599, (), b""), "HTTP status 599"),
        (Reply(400, (("content-type", "application/json"),), b"{"), "Bad Request"),
        (Reply(400, (("content-type", "application/json"),), b'["title"]'), "Bad Request"),
        (Reply(400, (("content-type", "application/json"),), b'{"title": 1}'), "Bad Request"),
        (Reply(400, (("content-type", "application/json"),), '{"title": "100 % für\\r\\nx: y"}'.encode()),
         "100 %25 f%C3%BCr%0D%0Ax: y"),
    ],
)  # fmt: skip
def test_other_answers_are_named_by_their_status(reply: Reply, message: str) -> None:
    assert dict(grpc.build_reply(reply, 2).headers)["grpc-message"] == message


@given(st.text(max_size=2000))
def test_any_message_is_one_header_line(message: str) -> None:
    escaped = grpc.escape(message)
    assert escaped.isascii()
    assert escaped.isprintable() or not escaped
    assert len(escaped) <= 3 * 1024
