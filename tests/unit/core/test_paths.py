"""Paths of routes: in the form that paths of requests have."""

from __future__ import annotations

import pytest
from nexus_core.match.paths import normalise
from nexus_core.translate.paths import exact, without_trailing_slash


@pytest.mark.parametrize(
    ("written", "form"),
    [("/admin", "/admin"), ("/%61dmin", "/admin"), ("/caf%c3%a9", "/caf%C3%A9"), ("/a%20b%40", "/a%20b%40")],
)
def test_routes_and_requests_have_paths_of_one_form(written: str, form: str) -> None:
    assert (exact(written), without_trailing_slash(f"{written}/"), normalise(written)) == (form, form, form)


def test_a_prefix_of_nothing_is_the_root() -> None:
    assert without_trailing_slash("/") == "/"
