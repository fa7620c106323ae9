"""What stands for a client."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

import pytest
from nexus_core.snapshot import HashKey
from nexus_gateway.balance.keys import MAX_TOKEN_BYTES, build_key


@dataclass
class Request:
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    client_ip: str = "192.0.2.7"

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


def jwt(payload: bytes) -> str:
    return f"e30.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.c2ln"


def of(kind: str, name: str, request: Request) -> bytes:
    return build_key([HashKey(kind, name)])(request)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "request_", "key"),
    [
        ("header", "X-User", Request({"x-user": "ann"}), b"ann"),
        ("header", "x-user", Request({"x-user": "\u00e9\udcff"}), "\u00e9\udcff".encode("utf-8", "surrogatepass")),
        ("header", "x-user", Request(), b""),
        ("cookie", "sid", Request({"cookie": "a=1; sid=xyz; sid=second"}), b"xyz"),
        ("cookie", "sid", Request({"cookie": 'asid=1;sid="q=r"'}), b"q=r"),
        ("cookie", "sid", Request({"cookie": "xsid=1; sid"}), b""),
        ("cookie", "sid", Request(), b""),
        ("query", "u", Request(query="x=1&u=a%20b&u=2"), b"a b"),
        ("query", "u v", Request(query="u+v=1"), b"1"),
        ("query", "u", Request(query="%75=enc"), b"enc"),
        ("query", "u", Request(query="v=1"), b""),
        ("query", "u", Request(), b""),
        ("source", "", Request(), b"192.0.2.7"),
        ("claim", "sub", Request({"authorization": f"Bearer {jwt(b'{{}}')}"}), b""),
        ("claim", "sub", Request({"authorization": "Basic YTpi"}), b""),
        ("claim", "sub", Request(), b""),
    ],
)
def test_a_key_is_a_part_of_the_request(kind: str, name: str, request_: Request, key: bytes) -> None:
    assert of(kind, name, request_) == key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("ann", b"ann"),
        (42, b"42"),
        (True, b"true"),
        (None, b""),
        (["a"], b""),
        ({"a": 1}, b""),
        ("\u00fc", "\u00fc".encode()),
    ],
)
def test_a_claim_is_text_a_number_or_a_truth_value(value: object, key: bytes) -> None:
    token = jwt(json.dumps({"iss": "x", "sub": value}).encode())
    assert of("claim", "sub", Request({"authorization": f"Bearer {token}"})) == key
    assert of("claim", "sub", Request({"authorization": f"bearer {token}"})) == key


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "e30.!!!!.x",
        jwt(b"[1]"),
        jwt(b"not json"),
        jwt(b"\xff\xfe{"),
        jwt(b"[" * 3000),
        jwt(b'{"sub": ' + b"9" * 5000 + b"}"),
        jwt(b'{"sub": "' + b"x" * MAX_TOKEN_BYTES + b'"}'),
    ],
)
def test_a_token_that_is_no_jwt_or_too_long_has_no_claim(token: str) -> None:
    assert of("claim", "sub", Request({"authorization": f"Bearer {token}"})) == b""


def test_the_first_part_that_the_request_has_counts() -> None:
    key = build_key([HashKey("cookie", "sid"), HashKey("header", "x-user"), HashKey("source")])
    assert key(Request({"cookie": "sid=", "x-user": "ann"})) == b"ann"
    assert key(Request({"cookie": "sid=1", "x-user": "ann"})) == b"1"
    assert key(Request()) == b"192.0.2.7"
    assert build_key([HashKey("cookie", "sid"), HashKey("header", "x-user")])(Request()) == b""
    assert build_key([])(Request()) == b""
