"""The signed debug header: who may ask, and the answer's form."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_gateway.telemetry import debugging

KEY = b"a key of sixteen"
NOW = 1_800_000_000.0
NONCE = "nonce-0001"


def token(expires: int = int(NOW) + 30, key: bytes = KEY, nonce: str = NONCE, **fields: str) -> bytes:
    asked = {"method": "GET", "host": "shop.example", "path": "/orders", **fields}
    return debugging.make_token(key, asked["method"], asked["host"], asked["path"], expires, nonce).encode()


def verify(given: bytes, key: bytes = KEY, now: float = NOW) -> str | None:
    return debugging.verify(given, key, "GET", "shop.example", "/orders", now)


def test_a_token_holds_for_its_request_until_it_expires() -> None:
    assert verify(token()) == NONCE
    assert verify(token(), now=NOW + 30) == NONCE
    assert verify(token(), now=NOW + 30.1) is None
    assert debugging.read_nonce(token()) == NONCE


@pytest.mark.parametrize(
    "given",
    [
        token(key=b"another key, not the gateway's"),
        token(path="/orders/7"),
        token(host="else.example"),
        token(method="POST"),
        token(int(NOW) - 1),
        token(int(NOW) + 61),
        token().replace(b"nonce-0001", b"nonce-0002"),
        token().replace(str(int(NOW) + 30).encode(), str(int(NOW) + 31).encode()),
        token() + b"0",
        token()[:-1],
        token().upper(),
        token() + b", " + token(),
        token(nonce="short"),
        token(nonce="with.dots.in.it"),
        b"",
        b"..",
        b"1" * 13 + token()[10:],
        "١٨٠٠٠٠٠٠٣٠.nonce-0001.".encode() + b"0" * 64,
    ],
)
def test_any_other_token_is_refused(given: bytes) -> None:
    assert verify(given) is None


def test_without_a_key_nobody_may_ask() -> None:
    assert verify(token(key=b""), key=b"") is None


def test_the_answer_comes_back_and_only_to_its_question() -> None:
    facts = {"route": "HTTPRoute/shop/a", "status": 200, "attempts": [{"endpoint": "10.0.0.1:80"}]}
    answer = debugging.build(facts)
    signature = debugging.sign_answer(KEY, NONCE, answer)
    assert debugging.read_answer(KEY, NONCE, answer, signature) == facts
    assert debugging.read_answer(KEY, "nonce-0002", answer, signature) is None
    assert debugging.read_answer(b"another key, not the gateway's", NONCE, answer, signature) is None
    assert debugging.read_answer(KEY, NONCE, answer[:-2], signature) is None
    assert debugging.read_answer(KEY, NONCE, answer, "é" * 64) is None
    text = "bm8ganNvbg"
    assert debugging.read_answer(KEY, NONCE, text, debugging.sign_answer(KEY, NONCE, text)) is None


def test_a_token_is_no_answer_and_an_answer_no_token() -> None:
    """The two signatures are over different first lines, so that neither can be passed off as the other."""
    answer = debugging.build({})
    assert debugging.sign_answer(KEY, NONCE, answer) not in token().decode()


@pytest.mark.parametrize("name", ["others", "plugins", "attempts", "why"])
def test_an_answer_is_never_too_long_and_says_what_it_lacks(name: str) -> None:
    long: Any = "x" * 9000 if name == "why" else [{"why": "y" * 90, "n": n} for n in range(100)]
    answer = debugging.build({"status": 200, "route": "r", name: long})
    assert len(answer) <= debugging.MAX_ANSWER_BYTES
    found = debugging.read_answer(KEY, NONCE, answer, debugging.sign_answer(KEY, NONCE, answer))
    assert found is not None
    assert (found["cut"], found["status"], found["route"]) == (True, 200, "r")
    if name == "attempts":
        assert found[name] == [{"why": "y" * 90, "n": 99}], "the last one counts"


def test_an_answer_that_nothing_shortens_says_the_status_alone() -> None:
    answer = debugging.build({"status": 503, "route": "r" * 9000})
    found = debugging.read_answer(KEY, NONCE, answer, debugging.sign_answer(KEY, NONCE, answer))
    assert found == {"cut": True, "status": 503}
