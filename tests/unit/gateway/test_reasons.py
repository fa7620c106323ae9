"""Whatever reason the gateway gives, somebody can look it up: answers have a page, the ends of connections a line in the index."""

from __future__ import annotations

import re
from pathlib import Path

import nexus_gateway.edge
from nexus_core.problems.catalogue import REASONS
from nexus_gateway.edge.replies import TITLES
from nexus_gateway.telemetry.decisions import BROKEN_OFF

INDEX = (Path(__file__).parents[3] / "docs" / "errors" / "README.md").read_text("utf-8")
EDGE = Path(nexus_gateway.edge.__path__[0])
GIVEN = re.compile(
    r"\b(?:_break|_break_off|broken_off|refuse|_refuse|refused|shed|Refused|end|_end)\(\s*\"([A-Z][A-Za-z]+)\""
)
"""Calls in `edge` that end a request, a connection or a session, with the reason."""


def test_every_answer_has_a_page() -> None:
    assert {reason: REASONS[reason].condition for reason in TITLES}.keys() == TITLES.keys()


def test_every_end_is_listed() -> None:
    given = {reason for path in EDGE.rglob("*.py") for reason in GIVEN.findall(path.read_text("utf-8"))} | BROKEN_OFF
    assert {"ClientReset", "Evicted", "RouteChanged", "TooManyConnections", "NoEndpoints"} <= given
    listed = set(re.findall(r"^\| (?:\[|`)([A-Za-z]+)", INDEX, re.MULTILINE))
    assert not given - listed
