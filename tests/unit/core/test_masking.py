"""What is told of a plugin's failure, without its secrets."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from nexus_core.problems.masking import hide

ODD = 'p@ss "wörd"/1'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"it was {ODD}!", "it was [redacted]!"),
        (f"{ODD} and {ODD}", "[redacted] and [redacted]"),
        (f"GET /?key={quote(ODD, safe='')}", "GET /?key=[redacted]"),
        (f"GET /{quote(ODD)}", "GET /[redacted]"),
        (json.dumps({"key": ODD}), '{"key": "[redacted]"}'),
        (repr({"key": ODD}), "{'key': '[redacted]'}"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_a_secret_is_hidden_however_it_is_written(text: str, told: str) -> None:
    assert hide(text, [ODD]) == told


def test_the_password_of_a_secret_address_is_one() -> None:
    assert hide("no answer of redis://:hunter22@cache/0", ["redis://:hunter22@cache/0"]) == "no answer of [redacted]"
    assert hide("AUTH hunter22 failed", ["redis://:hunter22@cache/0"]) == "AUTH [redacted] failed"


def test_a_secret_that_holds_another_leaves_nothing_over() -> None:
    assert hide("abcd-efgh", ["abcd", "abcd-efgh"]) == "[redacted]"


def test_what_ends_with_a_line_is_hidden_without_it_too() -> None:
    assert hide("token t0ken-1", ["t0ken-1\n"]) == "token [redacted]"


@pytest.mark.parametrize("secret", ["", "a", "   ", "\n", "http://[", "12"])
def test_what_is_short_or_nothing_takes_no_message_apart(secret: str) -> None:
    assert hide("a message of 12 words", [secret]) == "a message of 12 words"
