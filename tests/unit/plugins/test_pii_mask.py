"""pii-mask: what is found and what is not, in texts, JSON, forms, events, messages and log lines."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Done, Event, Message, RequestHead, ResponseHead, Socket
from nexus_plugin_pii_mask import PiiMask
from nexus_plugin_pii_mask.finders import KINDS, is_card, is_iban, is_luhn
from nexus_plugin_pii_mask.masking import Masker, label, partial
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import FakeContext, PluginKit

ALL = ["email", "card", "iban", "phone", "ip"]
KEY = "k" * 32


def masker(fields: tuple[str, ...] = (), patterns: tuple[tuple[str, str], ...] = ()) -> Masker:
    return Masker(ALL, [(name, re.compile(pattern)) for name, pattern in patterns], fields, label)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail Ann.B+x@mail.shop.example, please", "mail [email], please"),
        ("<a@b.de>;c_d%e@f-g.museum.", "<[email]>;[email]."),
        ("münchen@stadt.de", "[email]"),
        ("a@b, @user, user@, a@b.c", "a@b, @user, user@, a@b.c"),
        ("4111 1111 1111 1111", "[card]"),
        ("card 4111-1111-1111-1111 12/27 cvc 123", "card [card] 12/27 cvc 123"),
        ("4111111111111111, 378282246310005", "[card], [card]"),
        ("12 4111 1111 1111 1111 99", "12 [card] 99"),
        (
            "4111111111111112 and 0000000000000000 and 1234567890123",
            "4111111111111112 and 0000000000000000 and 1234567890123",
        ),
        ("14111111111111111", "14111111111111111"),
        ("DE89 3704 0044 0532 0130 00", "[iban]"),
        ("to gb82west12345698765432 now", "to [iban] now"),
        ("NO9386011117947 PLEASE PAY", "[iban] PLEASE PAY"),
        ("DE88370400440532013000, XX89370400440532013000", "DE88370400440532013000, XX89370400440532013000"),
        ("call +49 (30) 123-4567.", "call [phone]."),
        ("0049301234567 or (555) 010-4477", "[phone] or [phone]"),
        ("order 2024-01-01 total 1234567", "order 2024-01-01 total 1234567"),
        ("from 192.0.2.7:80 to [2001:db8::7], ::1", "from [ip]:80 to [[ip]], [ip]"),
        ("v1.2.3.4.5, 256.1.1.1, 12:30:45", "v1.2.3.4.5, 256.1.1.1, 12:30:45"),
        ("", ""),
    ],
)
def test_what_is_found_in_texts(text: str, masked: str) -> None:
    assert masker().text(text) == masked


def test_a_text_without_anything_is_the_same_object() -> None:
    text = "nothing here"
    assert masker().text(text) is text
    data = b'{"a": 1.10,  "b": []}'
    assert masker().body(data, "application/json") is data


def test_checksums() -> None:
    assert is_luhn("79927398713")
    assert not is_luhn("79927398710")
    assert is_card("6011000990139424")
    assert not is_card("9011000990139429")
    assert is_iban("FR1420041010050500013M02606")
    assert not is_iban("FR1420041010050500013M02607")


@pytest.mark.parametrize(
    ("kind", "text", "masked"),
    [("email", "a@b.example", "***@b.example"), ("card", "4111 1111 1111 1111", "****1111"), ("iban",
        "DE89 3704 0044 0532 0130 00", "****3000"),
     ("phone", "+49301234567", "***67"), ("ip", "192.0.2.7", "192.0.2.*"), ("ip", "2001:db8::7", "2001:db8:*"), ("other", "x", "***")],
)  # fmt: skip
def test_partial_masks(kind: str, text: str, masked: str) -> None:
    assert partial(kind, text) == masked


@given(st.text(max_size=200))
def test_masking_twice_changes_nothing_more_and_never_fails(text: str) -> None:
    once = masker().text(text)
    assert masker().text(once) == once


@pytest.mark.parametrize("name", ALL)
def test_hostile_texts_come_to_an_end(name: str) -> None:
    """What takes time that grows faster than the text would run into the tests' timeout here."""
    for piece in ("a.", "1 ", "1-", "+1 ", "a@", "a@a.", "DE89 ", "1.", ":1", "(1) ", "12345678901234567890", "a"):
        text = piece * (100_000 // len(piece))
        spans = list(KINDS[name](text))
        assert all(0 <= start < end <= len(text) for start, end in spans)


def test_json_is_masked_in_values_numbers_and_named_fields() -> None:
    body = {
        "mail": "a@b.example", "n": 4111111111111111, "PASSWORD": {"deep": [1]}, "nothing": None, "password": None,
        "customer": {"birthday": "2000-01-01", "items": [{"note": "x", "id": 1.5}]}, "birthday": "kept",
    }  # fmt: skip
    fields = ("password", "customer.birthday", "customer.items.*.note")
    masked = json.loads(masker(fields).body(json.dumps(body).encode(), "application/json"))
    assert masked == {
        "mail": "[email]", "n": "[card]", "PASSWORD": "[field]", "nothing": None, "password": None,
        "customer": {"birthday": "[field]", "items": [{"note": "[field]", "id": 1.5}]}, "birthday": "kept",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "data", "masked"),
    [
        ("application/json", b'"\\u0061@b\\u002eexample"', b'"[email]"'),
        ("application/json", b'{"a": "a@b.example", "a": 1}', b'{"a":1}'),
        ("application/vnd.x+json", b'{"a": "a@b.example"}', b'{"a":"[email]"}'),
        ("application/json", b'{"a": "a@b.example"', b'{"a": "[email]"'),
        ("application/json", b"[" * 100_000 + b'"a@b.example"', b"[" * 100_000 + b'"[email]"'),
        ("application/x-www-form-urlencoded", b"a=a%40b.example&b=1+2&pin=7", b"a=[email]&b=1+2&pin=[field]"),
        ("text/csv", b"\xff;a@b.example;\xfe", b"\xff;[email];\xfe"),
        ("application/xml", b"<a>a@b.example</a>", b"<a>[email]</a>"),
        ("image/png", b"a@b.example", b"a@b.example"),
        ("", b"a@b.example", b"[email]"),
    ],
)
def test_bodies_by_their_media_type(media_type: str, data: bytes, masked: bytes) -> None:
    assert masker(("pin",)).body(data, media_type) == masked


def test_own_patterns_are_found_also_in_long_texts_and_the_longest_wins() -> None:
    own = masker(patterns=(("customer", r"\bC-[0-9]{8}\b"), ("name", r"[a-z]+@b\.example/x")))
    long = "word " * 20_000 + "C-12345678"
    assert own.text(long) == "word " * 20_000 + "[customer]"
    assert own.text("a@b.example/x") == "[name]"


async def test_events_are_masked_in_data_and_attributes() -> None:
    event = Event(
        "1",
        "/users/a@b.example",
        "user.made",
        {"subject": "a@b.example", "time": "2024-01-01T00:00:00Z", "n": 1},
        b'{"m": "a@b.example"}',
    )
    async with PluginKit(PiiMask, {"mode": "label"}) as kit:
        masked = await kit.event_accepted(event)
        assert masked == Event(
            "1",
            "/users/a@b.example",
            "user.made",
            {"subject": "[email]", "time": "2024-01-01T00:00:00Z", "n": 1},
            b'{"m":"[email]"}',
        )
        plain = Event("1", "/", "t", {"datacontenttype": "text/plain; charset=utf-8"}, b"a@b.example")
        assert (await kit.event_accepted(plain)) == plain.with_data(b"[email]")
        empty = Event("1", "/", "t")
        assert await kit.event_accepted(empty) is empty
    async with PluginKit(PiiMask, {"where": {"events": False}}) as kit:
        assert await kit.event_accepted(event) is event


async def test_messages_each_way_as_configured() -> None:
    socket = Socket("s", RequestHead("GET", "/"))
    async with PluginKit(PiiMask, {"mode": "label", "where": {"serverMessages": True}, "fields": ["pin"]}) as kit:
        assert await kit.client_message(socket, Message("a@b.example")) == Message("a@b.example")
        for data, masked in (
            ("a@b.example", "[email]"),
            ('{"pin": 1}', '{"pin":"[field]"}'),
            (b"a@b.example", b"a@b.example"),
            ("{", "{"),
        ):
            assert await kit.server_message(socket, Message(data)) == Message(masked)


async def test_bodies_pass_through_the_hooks() -> None:
    config = {"where": {"requests": True, "responses": True}}
    request = RequestHead("POST", "/", headers=(("content-type", "application/json"), ("accept-encoding", "gzip")))
    answer = ResponseHead(200, (("content-type", "text/plain"),))
    async with PluginKit(PiiMask, config) as kit:
        done = await kit.roundtrip(request, b'["a@b.example"]', lambda head, body: (answer, b"card 4111111111111111"))
        assert (done.request_body, done.body) == (b'["***@b.example"]', b"card ****1111")
        assert done.request is not None
        assert done.request.header("accept-encoding") is None
        packed = answer.with_header("content-encoding", "gzip")
        assert await kit.response_body(request, packed, b"a@b.example") == b"a@b.example"
        signed = packed.with_header("content-digest", "sha-256=:x:")
        assert await kit.response(request, signed) is signed, "it stays as it is"
        signed = answer.with_header("content-digest", "sha-256=:x:").with_header("repr-digest", "sha-256=:x:")
        assert await kit.response(request, signed) == answer
        part = RequestHead("GET", "/", headers=(("range", "bytes=0-9"), ("accept", "*/*"), ("if-range", '"a"')))
        assert await kit.request(part) == part.with_headers((("accept", "*/*"),)), "half a card number is none"
    async with PluginKit(PiiMask) as kit:
        assert await kit.request_body(request, b'["a@b.example"]') == b'["a@b.example"]'
        assert await kit.request(request) is request


async def test_equal_data_have_equal_hashes_that_need_the_key() -> None:
    async def hashes(key: str) -> Any:
        context = FakeContext(secrets={"hash-key": key})
        async with PluginKit(PiiMask, {"mode": "hash"}, context=context) as kit:
            data = json.dumps(["a@B.example", "A@b.example", "+49 30 1234567", "+49301234567", "c@b.example"]).encode()
            event = await kit.event_accepted(Event("1", "/", "t", {}, data))
            assert isinstance(event, Event)
            return json.loads(event.data or b"")

    first = await hashes(KEY)
    assert first[0] == first[1] != first[4]
    assert first[2] == first[3]
    assert re.fullmatch(r"email:[0-9a-f]{20}", first[0])
    assert not set(first) & set(await hashes("other" * 8))


async def test_log_lines_hold_no_personal_data(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    request = RequestHead("GET", "/users/a%40b.example/x", "mail=a%40b.example&n=1&pin=9", "shop", (), "192.0.2.7")
    config = {"kinds": ALL, "fields": ["pin"], "mode": "label", "where": {"accessLog": True}}
    async with PluginKit(PiiMask, config) as kit:
        await kit.done(request, Done(200, seconds=0.25, request_id="r1"))
    line = json.loads(caplog.messages[-1])
    assert (line["path"], line["query"], line["client"]) == ("/users/[email]/x", "mail=[email]&n=1&pin=[field]", "[ip]")
    assert (line["status"], line["seconds"], line["request_id"]) == (200, 0.25, "r1")
    caplog.clear()
    async with PluginKit(PiiMask) as kit:
        await kit.done(request, Done(200))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "hash"}, "needs the secret 'hash-key'"),
        ({"patterns": [{"name": "a", "pattern": "(a+)+"}]}, r"config.patterns\[0\].pattern: .* repeat inside a repeat"),
        ({"patterns": [{"name": "a", "pattern": "("}]}, "is none"),
    ],
)
def test_configurations_that_cannot_be_used_say_why(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        PluginKit(PiiMask, config)
