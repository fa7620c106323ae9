"""Session tokens: read back by whoever has the secret, and by nobody else."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

import pytest
from nexus_gateway.balance.persistence import CLOCK_SKEW_S, TOKEN_CHARS, Sessions

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000.0


@dataclass(eq=False)
class Fake:
    authority: str


ENDPOINTS = tuple(Fake(f"10.0.0.{number}:8080") for number in range(4))


def test_a_session_finds_its_endpoint_in_every_gateway_with_the_secret() -> None:
    token = Sessions(SECRET, "shop/cart").seal(ENDPOINTS[2].authority, NOW)
    other = Sessions(SECRET, "shop/cart")
    assert other.find(token, ENDPOINTS, NOW + 5) is ENDPOINTS[2]
    assert other.find(token, ENDPOINTS[3:], NOW + 5) is None
    assert other.find(token, ENDPOINTS, NOW + 5) is ENDPOINTS[2]


def test_another_secret_or_another_upstream_does_not_open_it() -> None:
    token = Sessions(SECRET, "shop/cart").seal(ENDPOINTS[2].authority, NOW)
    assert Sessions(SECRET[::-1], "shop/cart").find(token, ENDPOINTS, NOW) is None
    assert Sessions(SECRET, "shop/orders").find(token, ENDPOINTS, NOW) is None


def test_a_token_is_safe_in_a_cookie_and_names_no_address() -> None:
    token = Sessions(SECRET, "u").seal("10.0.0.2:8080", NOW)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert len(token) == TOKEN_CHARS
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert b"10.0" not in raw
    assert bytes([10, 0, 0, 2]) not in raw


def test_every_altered_character_closes_it() -> None:
    sessions = Sessions(SECRET, "u")
    token = sessions.seal(ENDPOINTS[1].authority, NOW)
    # The last character carries two bits of the token and four that the decoder drops.
    for at in range(len(token) - 1):
        altered = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert sessions.find(altered, ENDPOINTS, NOW) is None, at


@pytest.mark.parametrize(
    "token", ["", "x", "=" * TOKEN_CHARS, "A" * TOKEN_CHARS, "\u00e9" * TOKEN_CHARS, "!" * TOKEN_CHARS]
)
def test_what_is_no_token_opens_nothing(token: str) -> None:
    assert Sessions(SECRET, "u").find(token, ENDPOINTS, NOW) is None


@pytest.mark.parametrize(
    ("age", "absolute_s", "opens"),
    [
        (0.0, 60.0, True),
        (59.0, 60.0, True),
        (60.0, 60.0, False),
        (1e8, 0.0, True),
        (-CLOCK_SKEW_S, 60.0, True),
        (-CLOCK_SKEW_S - 1, 60.0, False),
        (-CLOCK_SKEW_S - 1, 0.0, False),
    ],
)
def test_a_session_ends_at_its_greatest_age(age: float, absolute_s: float, opens: bool) -> None:
    sessions = Sessions(SECRET, "u")
    token = sessions.seal(ENDPOINTS[0].authority, NOW)
    assert (sessions.find(token, ENDPOINTS, NOW + age, absolute_s) is not None) == opens


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 or more"):
        Sessions(b"short", "u")
