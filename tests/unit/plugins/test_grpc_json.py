"""grpc-json: rules of google.api.http, messages each way, statuses, and bytes that are none."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, timestamp_pb2, wrappers_pb2
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_plugin_grpc_json import GrpcJson
from nexus_plugin_grpc_json.framing import NotFramed, frame, messages, status_of
from nexus_plugin_grpc_json.rules import NotReadable, Rule, rules_of
from nexus_plugin_grpc_json.services import Services
from nexus_plugin_grpc_json.templates import NotTemplate, compile_template
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import PluginKit

F = descriptor_pb2.FieldDescriptorProto
OPTIONAL, REPEATED = F.LABEL_OPTIONAL, F.LABEL_REPEATED


def message(name: str, /, **fields: tuple[int, int, str]) -> descriptor_pb2.DescriptorProto:
    made = descriptor_pb2.DescriptorProto(name=name)
    for number, (each, (kind, label, type_name)) in enumerate(fields.items(), 1):
        field = made.field.add(name=each, number=number, type=kind, label=label)
        if type_name:
            field.type_name = type_name
    return made


def method(
    name: str, request: str, response: str, rule: Any = None, **flags: bool
) -> descriptor_pb2.MethodDescriptorProto:
    made = descriptor_pb2.MethodDescriptorProto(
        name=name, input_type=f".lib.{request}", output_type=f".lib.{response}", **flags
    )
    if rule is not None:
        made.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    return made


def library(extra: list[descriptor_pb2.MethodDescriptorProto] | None = None) -> descriptor_pb2.FileDescriptorProto:
    text, num, flag, msg, enum = F.TYPE_STRING, F.TYPE_INT64, F.TYPE_BOOL, F.TYPE_MESSAGE, F.TYPE_ENUM
    file = descriptor_pb2.FileDescriptorProto(
        name="lib.proto", package="lib", syntax="proto3",
        dependency=["google/api/annotations.proto", "google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"],
    )  # fmt: skip
    file.enum_type.add(name="Kind").value.add(name="NOVEL", number=0)
    file.enum_type[0].value.add(name="POEM", number=1)
    file.message_type.extend([
        message("Book", name=(text, OPTIONAL, ""), title=(text, OPTIONAL, ""), page_count=(num, OPTIONAL, ""),
            kind=(enum, OPTIONAL, ".lib.Kind"),
                written=(msg, OPTIONAL, ".google.protobuf.Timestamp"), tags=(text, REPEATED, "")),
        message("Get", name=(text, OPTIONAL, "")),
        message("Create", parent=(text, OPTIONAL, ""), book=(msg, OPTIONAL, ".lib.Book"), dry_run=(flag, OPTIONAL, "")),
        message("List", parent=(text, OPTIONAL, ""), page_size=(F.TYPE_INT32, OPTIONAL, ""), tag=(text, REPEATED,
            ""), like=(msg, OPTIONAL, ".lib.Book"),
                after=(msg, OPTIONAL, ".google.protobuf.Timestamp"), least=(msg, OPTIONAL, ".google.protobuf.Int32Value"),
                raw=(F.TYPE_BYTES, OPTIONAL, "")),
        message("Books", books=(msg, REPEATED, ".lib.Book")),
    ])  # fmt: skip
    service = file.service.add(name="Library")
    service.method.extend([
        method("Get", "Get", "Book", http_pb2.HttpRule(get="/v1/{name=shelves/*/books/*}", additional_bindings=[
            http_pb2.HttpRule(get="/v1/{name=archive/**}"), http_pb2.HttpRule(custom={"kind": "FETCH",
                "path": "/v1/{name=shelves/*/books/*}:peek"})])),
        method("Create", "Create", "Book", http_pb2.HttpRule(post="/v1/{parent=shelves/*}/books", body="book")),
        method("Update", "Book", "Book", http_pb2.HttpRule(put="/v1/{name=shelves/*/books/*}", body="*")),
        method("List", "List", "Books", http_pb2.HttpRule(get="/v1/{parent=shelves/*}/books", response_body="books")),
        method("Watch", "List", "Book", http_pb2.HttpRule(get="/v1/watch"), server_streaming=True),
        method("Upload", "Book", "Book", http_pb2.HttpRule(post="/v1/upload", body="*"), client_streaming=True),
        method("Plain", "Get", "Book"),
        *(extra or []),
    ])  # fmt: skip
    return file


def encoded(*files: descriptor_pb2.FileDescriptorProto) -> str:
    return base64.b64encode(descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()).decode()


def kit(**config: Any) -> PluginKit:
    return PluginKit(GrpcJson, {"descriptors": encoded(library()), **config})


async def call(plugin: PluginKit, verb: str, target: str, body: Any = None, *headers: tuple[str, str]) -> Any:
    path, _, query = target.partition("?")
    head = await plugin.request(RequestHead(verb, path, query, "lib", headers))
    if isinstance(head, Reply):
        return head
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return await plugin.request_body(head, data)


def sent(plugin: PluginKit, result: Any, kind: str) -> Any:
    """Return the message of a call as the service reads it."""
    assert isinstance(result, tuple), result
    guard: Any = plugin.plugin
    message_class = guard._services._class(f"lib.{kind}")
    (data,) = messages(result[1], "identity", 1 << 20)
    return message_class.FromString(data)


def reason(reply: object) -> tuple[int, str]:
    assert isinstance(reply, Reply), reply
    return reply.status, json.loads(reply.body)["reason"]


# ---- requests


async def test_paths_queries_and_bodies_become_messages() -> None:
    async with kit() as plugin:
        result = await call(plugin, "GET", "/v1/shelves/1/books/a%20b%2Fc")
        assert sent(plugin, result, "Get").name == "shelves/1/books/a b%2Fc", "an encoded slash stays apart"
        assert sent(plugin, await call(plugin, "GET", "/v1/archive/x/y/z"), "Get").name == "archive/x/y/z"
        assert (
            sent(plugin, await call(plugin, "FETCH", "/v1/shelves/1/books/2:peek"), "Get").name == "shelves/1/books/2"
        )
        made = sent(
            plugin,
            await call(
                plugin, "POST", "/v1/shelves/1/books?dryRun=true", {"title": "T", "pageCount": "7", "kind": "POEM"}
            ),
            "Create",
        )
        assert (made.parent, made.dry_run, made.book.title, made.book.page_count, made.book.kind) == (
            "shelves/1",
            True,
            "T",
            7,
            1,
        )
        made = sent(
            plugin, await call(plugin, "PUT", "/v1/shelves/1/books/2", {"name": "forged", "title": "T"}), "Book"
        )
        assert (made.name, made.title) == ("shelves/1/books/2", "T"), "the path wins"
        query = "page_size=5&tag=a&tag=b&like.pageCount=9&like.kind=1&after=2024-01-01T00:00:00Z&least=3&raw=AAE%3D"
        made = sent(plugin, await call(plugin, "GET", f"/v1/shelves/1/books?{query}"), "List")
        assert (made.page_size, list(made.tag), made.like.page_count, made.like.kind) == (5, ["a", "b"], 9, 1)
        assert (made.after.seconds, made.least.value, made.raw) == (1704067200, 3, b"\x00\x01")


async def test_the_call_is_one_of_grpc_with_the_clients_metadata() -> None:
    headers = (
        ("authorization", "x"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("grpc-status", "0"),
    )
    async with kit() as plugin:
        head, data = await call(plugin, "GET", "/v1/shelves/1/books/2?", None, *headers)
    assert (head.method, head.path, head.query) == ("POST", "/lib.Library/Get", "")
    kept = dict(head.headers)
    assert kept == {
        "authorization": "x", "content-type": "application/grpc", "te": "trailers",
            "grpc-accept-encoding": "identity",
    }  # fmt: skip
    assert data[:5] == struct.pack(">BI", 0, len(data) - 5)


@pytest.mark.parametrize(
    ("verb", "target", "body", "expected"),
    [
        ("GET", "/v1/shelves/1/books/2?colour=red", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books/2?name=forged", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?page_size=many", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?page_size=1&page_size=2", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?page_size=99999999999", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?like=x", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?like.kind=BALLAD", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?after=yesterday", None, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books?raw=a", None, (400, "RequestInvalid")),
        ("POST", "/v1/shelves/1/books?dry_run=1", {}, (400, "RequestInvalid")),
        ("POST", "/v1/shelves/1/books?book.title=x", {}, (400, "RequestInvalid")),
        ("POST", "/v1/shelves/1/books", b"{", (400, "RequestInvalid")),
        ("POST", "/v1/shelves/1/books", b'{"title": "a", "title": "b"}', (400, "RequestInvalid")),
        ("POST", "/v1/shelves/1/books", {"colour": 1}, (400, "RequestInvalid")),
        ("POST", "/v1/shelves/1/books", [1], (400, "RequestInvalid")),
        ("PUT", "/v1/shelves/1/books/2", b"[" * 100_000, (400, "RequestInvalid")),
        ("PUT", "/v1/shelves/1/books/2", [1], (400, "RequestInvalid")),
        ("PUT", "/v1/shelves/1/books/2", {"title": "\ud800"}, (400, "RequestInvalid")),
        ("GET", "/v1/shelves/1/books/2", b"{}", (400, "RequestInvalid")),
        ("DELETE", "/v1/shelves/1/books/2", None, (405, "MethodUnknown")),
        ("GET", "/v1/shelves/1", None, (404, "OperationUnknown")),
        ("GET", "/v1/shelves//books/2", None, (404, "OperationUnknown")),
        ("POST", "/v1/upload", {}, (404, "OperationUnknown")),
        ("POST", "/lib.Library/Plain", {}, (404, "OperationUnknown")),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_refused(verb: str, target: str, body: Any, expected: tuple[int, str]) -> None:
    async with kit() as plugin:
        assert reason(await call(plugin, verb, target, body)) == expected


async def test_options_of_requests() -> None:
    async with kit(everyMethod=True, ignoreUnknown=True, unknownPaths="pass") as plugin:
        assert (
            sent(plugin, await call(plugin, "POST", "/lib.Library/Plain", {"name": "n", "colour": 1}), "Get").name
            == "n"
        )
        assert (
            sent(plugin, await call(plugin, "GET", "/v1/shelves/1/books/2?colour=red"), "Get").name
            == "shelves/1/books/2"
        )
        assert await call(plugin, "GET", "/other", b"x") == b"x"
        native = ("content-type", "application/grpc+proto")
        assert await call(plugin, "POST", "/lib.Library/Plain", b"\x00", native) == b"\x00"
        packed = ("content-encoding", "gzip")
        assert reason(await call(plugin, "POST", "/lib.Library/Plain", b"\x1f", packed)) == (415, "EncodingUnsupported")


# ---- responses

GRPC = ResponseHead(
    200, (("content-type", "application/grpc"), ("x-meta", "m"), ("grpc-encoding", "gzip"), ("trailer", "grpc-status"))
)


async def answered(target: str, body: bytes, head: ResponseHead = GRPC, verb: str = "GET", **config: Any) -> Any:
    async with kit(**config) as plugin:
        passed = await plugin.request(RequestHead(verb, target, headers=(("x-request-id", "r1"),)))
        assert isinstance(passed, RequestHead)
        responded = await plugin.response(passed, head)
        return responded if isinstance(responded, Reply) else await plugin.response_body(passed, head, body)


def book(**fields: Any) -> bytes:
    made: Any = Services(encoded(library()), (), every_method=False)._class("lib.Book")(**fields)
    return bytes(made.SerializeToString())


async def test_messages_become_json() -> None:
    reply = await answered("/v1/shelves/1/books/2", frame(book(title="Tüte", page_count=7, kind=1)))
    assert reply.status == 200
    assert dict(reply.headers) == {"x-meta": "m", "content-type": "application/json"}
    assert json.loads(reply.body) == {"title": "Tüte", "pageCount": "7", "kind": "POEM"}
    options = {"protoNames": True, "defaults": True, "enumNumbers": True}
    reply = await answered("/v1/shelves/1/books/2", frame(book(page_count=7)), **options)
    assert json.loads(reply.body) == {"name": "", "title": "", "page_count": "7", "kind": 0, "tags": []}
    data = gzip.compress(book(title="T"))
    reply = await answered("/v1/shelves/1/books/2", struct.pack(">BI", 1, len(data)) + data)
    assert json.loads(reply.body) == {"title": "T"}


async def test_streams_become_arrays_and_a_field_may_be_the_answer() -> None:
    reply = await answered("/v1/watch", frame(book(title="a")) + frame(book(title="b")))
    assert json.loads(reply.body) == [{"title": "a"}, {"title": "b"}]
    assert json.loads((await answered("/v1/watch", b"")).body) == []
    one = book(title="a")
    reply = await answered("/v1/shelves/1/books", frame(b"\x0a" + bytes([len(one)]) + one))
    assert json.loads(reply.body) == [{"title": "a"}]
    assert json.loads((await answered("/v1/shelves/1/books", frame(b""))).body) == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("grpc-status", "5"), ("grpc-message", "no%20such%20book%0d%0a")), (404, "NOT_FOUND")),
        ((("grpc-status", "16"),), (401, "UNAUTHENTICATED")),
        ((("grpc-status", "14"),), (503, "UNAVAILABLE")),
        ((("grpc-status", "99"),), (500, "UNKNOWN")),
        ((("grpc-status", "x"),), (500, "UNKNOWN")),
    ],
)
async def test_statuses_become_problems(headers: tuple[tuple[str, str], ...], expected: tuple[int, str]) -> None:
    failed = ResponseHead(200, (("content-type", "application/grpc"), ("x-meta", "m"), *headers))
    reply = await answered("/v1/shelves/1/books/2", b"", failed)
    assert reason(reply) == expected
    assert dict(reply.headers) == {"x-meta": "m", "content-type": "application/problem+json"}
    assert json.loads(reply.body)["request_id"] == "r1"
    async with kit() as plugin:
        passed = await plugin.request(RequestHead("GET", "/v1/shelves/1/books/2"))
        assert isinstance(passed, RequestHead)
        assert reason(await plugin.response_body(passed, failed, b"")) == expected, (
            "where trailers are shown with the body"
        )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "GrpcStatusUnknown"),
        (frame(b"") * 2, "ResponseInvalid"),
        (b"\x00\x00", "ResponseInvalid"),
        (b"\x00\x00\x00\x00\x09abc", "ResponseInvalid"),
        (b"\x07\x00\x00\x00\x00", "ResponseInvalid"),
        (frame(b"\xff\xff\xff"), "ResponseInvalid"),
        (struct.pack(">BI", 1, 3) + b"abc", "ResponseInvalid"),
        (frame(b"x" * 2000), "ResponseInvalid"),
        (struct.pack(">BI", 1, len(gzip.compress(b"\0" * 10**6))) + gzip.compress(b"\0" * 10**6), "ResponseInvalid"),
        (frame(b"\x0a\x01\xff"), "ResponseInvalid"),
    ],
)
async def test_answers_that_are_none_are_refused(body: bytes, expected: str) -> None:
    assert reason(await answered("/v1/shelves/1/books/2", body, maxBytes=1000)) == (502, expected)


async def test_other_answers_stay_as_they_are() -> None:
    html = ResponseHead(503, (("content-type", "text/html"),))
    assert await answered("/v1/shelves/1/books/2", b"<html>", html) == b"<html>"
    async with kit(unknownPaths="pass") as plugin:
        assert await plugin.response_body(RequestHead("GET", "/other"), GRPC, b"x") == b"x"


# ---- parts


def test_templates() -> None:
    template = compile_template("/v1/{a.b=x/*/y}/{c}:do")
    assert template.match("/v1/x/1/y/2:do") == {"a.b": "x/1/y", "c": "2"}
    assert template.match("/v1/x/1/y/2%2F3:do") == {"a.b": "x/1/y", "c": "2/3"}
    assert [template.match(path) for path in ("/v1/x/1/y/2", "/v1/x/1/2/y/2:do", "/v1/x//y/2:do")] == [None] * 3
    assert compile_template("/{a=**}").match("/x/%2f/y%20z") == {"a": "x/%2f/y z"}
    orders = [compile_template(text).order for text in ("/a/b", "/a/*:x", "/a/*", "/a/**")]
    assert orders == sorted(orders)


@pytest.mark.parametrize("text", ["v1", "/{a", "/{a}/{a}", "/{a=**}/b", "/a*", "/{1}", "/{a={b}}"])
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(NotTemplate):
        compile_template(text)


def test_rules_are_read_from_the_bytes_of_options() -> None:
    options = descriptor_pb2.MethodOptions(deprecated=True)
    rule = http_pb2.HttpRule(
        selector="s", patch="/a", body="b", response_body="c", additional_bindings=[http_pb2.HttpRule(delete="/d")]
    )
    options.Extensions[annotations_pb2.http].CopyFrom(rule)
    assert rules_of(options.SerializeToString()) == [Rule("PATCH", "/a", "b", "c"), Rule("DELETE", "/d")]
    assert rules_of(b"") == []
    for broken in (b"\x82", b"\x82\xd3\xe4\x93\x02\x7f", b"\x0b", b"\xff" * 20):
        with pytest.raises(NotReadable):
            rules_of(broken)


def test_frames_and_statuses() -> None:
    assert messages(frame(b"a") + frame(b""), "identity", 1) == [b"a", b""]
    with pytest.raises(NotFramed, match="more than 1 bytes"):
        messages(frame(b"ab"), "identity", 1)
    assert [status_of(str(code))[1] for code in range(17)] == [
        200,
        499,
        500,
        400,
        504,
        404,
        409,
        403,
        429,
        400,
        409,
        400,
        501,
        500,
        503,
        500,
        401,
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"descriptors": "not base64!"}, "no FileDescriptorSet"),
        ({"descriptors": "/////w=="}, "no FileDescriptorSet"),
        ({"descriptors": encoded()}, "no method has an HTTP binding"),
        ({"services": ["lib.Other"]}, "lib.Other is not in the descriptors; there are: .*"),
        (
            {"descriptors": encoded(descriptor_pb2.FileDescriptorProto(name="a.proto", dependency=["b.proto"]))},
            "imports b.proto, which is not",
        ),
        (
            {"descriptors": encoded(descriptor_pb2.FileDescriptorProto(name="a.proto", dependency=["a.proto"]))},
            "imports itself",
        ),
        (
            {"descriptors": encoded(library([method("X", "Get", "Book", http_pb2.HttpRule(get="/{other}"))]))},
            "lib.Get has no field other",
        ),
        (
            {"descriptors": encoded(library([method("X", "Get", "Book", http_pb2.HttpRule(post="/x", body="other"))]))},
            "lib.Get has no field other",
        ),
        (
            {"descriptors": encoded(library([method("X", "Get", "Book", http_pb2.HttpRule(get="x"))]))},
            "does not start with '/'",
        ),
        ({"descriptors": encoded(library([method("X", "Missing", "Book")]))}, "config.descriptors"),
    ],
)
def test_configurations_that_cannot_be_used_say_why(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        kit(**config)


def test_well_known_types_may_come_along() -> None:
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        for module in (timestamp_pb2, wrappers_pb2)
    ]
    PluginKit(GrpcJson, {"descriptors": encoded(library(), *files)})
