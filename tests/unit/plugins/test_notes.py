"""Two NexusPlugins of one plugin see the same request: what one notes of it is its own."""

from __future__ import annotations

from typing import Any

from nexus_core.hooks import Done, RequestHead, ResponseHead
from nexus_plugin_audit_log import AuditLog
from nexus_plugin_grpc_json import GrpcJson
from nexus_plugin_response_cache import ResponseCache
from nexus_sdk.testing import FakeContext

from tests.unit.plugins.test_grpc_json import encoded, library

ONE, OTHER = "shop/one", "shop/other"


async def test_grpc_json_turns_the_answers_of_its_own_calls(make: Any) -> None:
    config = {"descriptors": encoded(library())}
    one = make(GrpcJson, config, FakeContext(plugin=ONE))
    other = make(GrpcJson, config, FakeContext(plugin=OTHER))
    call, _ = await one.request_body(await one.request(RequestHead("GET", "/v1/shelves/1/books/2")), b"")
    assert (await other.request(call)) is call
    answer = ResponseHead(200, (("content-type", "application/grpc"),))
    assert one.plugin.wants_response_body(call, answer)
    assert not other.plugin.wants_response_body(call, answer)


async def test_audit_log_has_the_digests_that_it_was_asked_for(make: Any) -> None:
    one = make(AuditLog, {"requestDigest": True}, FakeContext(plugin=ONE))
    other = make(AuditLog, {"responseDigest": True}, FakeContext(plugin=OTHER))
    request = await other.request(await one.request(RequestHead("POST", "/")))
    await one.request_stream(request, [b"body"])
    assert one.plugin._stream(request, "x")._notes.keys() == {"request_sha256"}
    assert other.plugin._stream(request, "x")._notes == {}


async def test_response_cache_brings_its_own_answers(make: Any) -> None:
    one = make(ResponseCache, {}, FakeContext(plugin=ONE))
    other = make(ResponseCache, {}, FakeContext(plugin=OTHER))
    request = await other.request(await one.request(RequestHead("GET", "/a", host="shop.example")))
    for kit in (other, one):
        await kit.done(request, Done(502))
        assert len(kit.plugin._flights) == 0
