"""The plugin `compression`: who gets what coding, what is left alone, and that bodies come out as they went in."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import nexus_plugin_compression
import pytest
import yaml
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Headers, RequestHead, ResponseHead
from nexus_core.snapshot import Permissions
from nexus_hosting.permits import Permits
from nexus_plugin_compression import Compression
from nexus_plugin_compression.accepting import choose, weights
from nexus_plugin_compression.coding import CODINGS, Compressed

BODY = b'{"name": "value", "list": [1, 2, 3]}\n' * 500
JSON = ("content-type", "application/json; charset=utf-8")
LENGTH = ("content-length", str(len(BODY)))


def ask(accept: str | None = "gzip", method: str = "GET", **headers: str) -> RequestHead:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if accept is not None:
        pairs.append(("accept-encoding", accept))
    return RequestHead(method, "/", headers=tuple(pairs))


def decode(coding: str, body: bytes) -> bytes:
    """Return a body as a browser reads it."""
    if coding == "gzip":
        return zlib.decompress(body, 31)
    if coding == "br":
        return bytes(brotli.decompress(body))
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)


async def got(
    make: Any,
    request: RequestHead,
    headers: Headers = (JSON, LENGTH),
    body: bytes = BODY,
    status: int = 200,
    **config: Any,
) -> tuple[dict[str, str], bytes]:
    kit = make(Compression, config)
    made = await kit.roundtrip(request, upstream=lambda _, __: (ResponseHead(status, headers), body))
    return dict(made.headers), made.body


# ---- which coding


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("gzip, deflate, br, zstd", "zstd"), ("gzip;q=1.0, br;q=0.9", "gzip"),
        ("GZIP ; Q=0.5", "gzip"), ("*", "zstd"), ("*;q=0.1", "zstd"), ("zstd;q=0, *", "br"), ("br;q=0.001", "br"), ("x-gzip", "gzip"),
        ("gzip;q=0", None), ("identity", None), ("identity, gzip;q=0.5", None), ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("deflate", None), ("", None), ("*;q=0", None), (None, None), ("gzip;q=2", None), ("gzip;q=-1", None), ("gzip;q=0.5555", None),
        ("gzip;level=9", None), ("gzip br", None), (",,, ,gzip,", "gzip"), ("a" * 5000 + ",gzip", None), ("gzip;q=, br", "br"),
    ],
)  # fmt: skip
async def test_the_client_gets_the_coding_that_it_wants_most(make: Any, accept: str | None, coding: str | None) -> None:
    headers, body = await got(make, ask(accept))
    assert headers.get("content-encoding") == coding
    assert (decode(coding, body) if coding else body) == BODY
    assert headers["vary"] == "accept-encoding"


async def test_several_lines_are_one_list(make: Any) -> None:
    request = RequestHead("GET", "/", headers=(("accept-encoding", "gzip;q=0.5"), ("accept-encoding", "br")))
    assert (await got(make, request))[0]["content-encoding"] == "br"


async def test_the_configured_order_decides_between_equals(make: Any) -> None:
    assert (await got(make, ask("br, gzip, zstd"), encodings=["gzip", "br"]))[0]["content-encoding"] == "gzip"
    assert "content-encoding" not in (await got(make, ask("zstd"), encodings=["gzip", "br"]))[0]


@given(st.text(max_size=60))
def test_no_header_breaks_the_choice(text: str) -> None:
    assert choose(text, ("zstd", "br", "gzip")) in (None, "zstd", "br", "gzip")
    assert all(0 <= weight <= 1 for weight in weights(text).values())


# ---- what the head says


async def test_the_head_says_what_the_body_became(make: Any) -> None:
    sent = (
        JSON,
        LENGTH,
        ("etag", '"a"'),
        ("accept-ranges", "bytes"),
        ("content-md5", "x"),
        ("x-kept", "1"),
        ("vary", "Accept"),
    )
    response = await make(Compression).response(ask(), ResponseHead(200, sent))
    assert response.headers == (
        JSON, ("x-kept", "1"), ("vary", "Accept"), ("etag", 'W/"a"'), ("vary", "accept-encoding"), ("content-encoding", "gzip"),
    )  # fmt: skip


@pytest.mark.parametrize("vary", ["Accept-Encoding", "origin, ACCEPT-ENCODING", "*"])
async def test_vary_names_the_header_once(make: Any, vary: str) -> None:
    headers, _ = await got(make, ask(), (JSON, LENGTH, ("vary", vary)))
    assert headers["vary"] == vary


async def test_head_is_told_of_the_body_as_it_is_and_of_the_tag_and_vary_of_get(make: Any) -> None:
    kit = make(Compression)
    response = ResponseHead(200, (JSON, LENGTH, ("etag", '"a"')))
    told = await kit.response(ask(method="HEAD"), response)
    assert told.headers == (JSON, LENGTH, ("etag", 'W/"a"'), ("vary", "accept-encoding"))
    assert kit.plugin.on_response_stream(ask(method="HEAD"), response) is None
    assert await kit.response(ask(None, method="HEAD"), response) == await kit.response(ask(None), response)


async def test_what_its_manifest_asks_for_suffices_to_take_out_what_was_of_the_former_body(make: Any) -> None:
    manifest = yaml.safe_load((Path(nexus_plugin_compression.__file__).parent / "plugin.yaml").read_text())
    asked = manifest["permissions"]["headers"]
    permits = Permits(Permissions(read_headers=tuple(asked["read"]), write_headers=tuple(asked["write"])))
    former = [(name, "x") for name in ("accept-ranges", "content-digest", "content-md5", "digest", "repr-digest")]
    real = ResponseHead(200, (JSON, LENGTH, *former, ("x-kept", "1")))
    kit = make(Compression)
    guarded = permits.guard_response(kit.plugin.on_response)
    assert guarded(ask(), real) == ResponseHead(
        200, (JSON, ("x-kept", "1"), ("vary", "accept-encoding"), ("content-encoding", "gzip"))
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((JSON, LENGTH, ("content-encoding", "br")), 200), ((JSON, LENGTH, ("cache-control", "max-age=1, No-Transform")), 200),
        ((JSON, ("content-length", "1023")), 200), ((JSON, LENGTH, ("content-range", "bytes 0-9/10")), 206), ((JSON, LENGTH), 206),
        ((("content-type", "image/png"), LENGTH), 200), ((LENGTH,), 200), ((("content-type", "textual/x"), LENGTH), 200),
        ((JSON,), 204), ((JSON, ("etag", '"a"')), 304), ((JSON,), 101),
    ],
)  # fmt: skip
async def test_what_gains_nothing_or_may_not_be_changed_stays_as_it_is(
    make: Any, headers: Headers, status: int
) -> None:
    kit = make(Compression)
    response = ResponseHead(status, headers)
    assert kit.plugin.on_response(ask(), response) is response
    assert kit.plugin.on_response_stream(ask(), response) is None


@pytest.mark.parametrize(
    "headers", [(JSON,), (JSON, LENGTH, ("content-encoding", "identity")), (("content-type", "TEXT/Plain"), LENGTH)]
)
async def test_other_forms_of_what_is_compressed(make: Any, headers: Headers) -> None:
    said, body = await got(make, ask(), headers)
    assert (said["content-encoding"], decode("gzip", body)) == ("gzip", BODY)


@pytest.mark.parametrize(
    ("sent", "tag"), [('W/"a"', 'W/"a"'), ('"x", W/"a"', 'W/"a"'), ('"a"', '"a"'), ("*", '"a"'), (None, '"a"')]
)
async def test_not_modified_names_the_tag_that_the_client_has(make: Any, sent: str | None, tag: str) -> None:
    request = ask(if_none_match=sent) if sent else ask()
    response = await make(Compression).response(request, ResponseHead(304, (("etag", '"a"'),)))
    assert response.header("etag") == tag


# ---- bodies


@pytest.mark.parametrize("coding", CODINGS)
@given(pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=20), each=st.booleans())
def test_bodies_come_out_as_they_went_in(coding: str, pieces: list[bytes], each: bool) -> None:
    stream = Compressed(coding, 3, each=each)
    made = b"".join([stream.feed(piece) for piece in pieces]) + stream.finish()
    assert decode(coding, made) == b"".join(pieces)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("level", [1, 9])
def test_every_level_makes_something_smaller_that_can_be_read(coding: str, level: int) -> None:
    rng = random.Random(1)
    body = b" ".join([rng.choice([b"alpha", b"beta", b"gamma", b"delta"]) for _ in range(20_000)])
    stream = Compressed(coding, level, each=False)
    made = b"".join([stream.feed(body[at : at + 9999]) for at in range(0, len(body), 9999)]) + stream.finish()
    assert decode(coding, made) == body
    assert len(made) < len(body) / 3


def test_zstd_stays_within_the_window_that_browsers_take() -> None:
    stream = Compressed("zstd", 15, each=False)
    made = stream.feed(bytes(1 << 20)) + stream.finish()
    assert zstandard.get_frame_parameters(made).window_size <= 8 << 20


@pytest.mark.parametrize("coding", CODINGS)
async def test_events_can_be_read_one_by_one(make: Any, coding: str) -> None:
    kit = make(Compression)
    head = ResponseHead(200, (("content-type", "text/event-stream"),))
    assert (await kit.response(ask(coding), head)).header("content-encoding") == coding
    stream = kit.plugin.on_response_stream(ask(coding), head)
    read: Callable[[bytes], bytes]
    if coding == "gzip":
        read = zlib.decompressobj(31).decompress
    elif coding == "br":
        read = brotli.Decompressor().process
    else:
        read = zstandard.ZstdDecompressor().decompressobj().decompress
    for number in range(5):
        event = b"data: %d\n\n" % number
        assert read(stream.feed(event)) == event


async def test_other_bodies_are_collected(make: Any) -> None:
    stream = make(Compression).plugin.on_response_stream(ask(), ResponseHead(200, (JSON,)))
    sizes = [len(stream.feed(b"x" * 10)) for _ in range(50)]
    assert sum(sizes) < 30, "only what the coding begins with is sent"


def test_the_schema_knows_codings_and_levels(refused: Any) -> None:
    assert refused(Compression, {"encodings": ["deflate"]})
    assert refused(Compression, {"encodings": []})
    assert refused(Compression, {"brotliLevel": 11})
    assert refused(Compression, {"types": ["json"]})
    assert refused(Compression, {}) == ""
