"""Which regular expressions a route may hold."""

from __future__ import annotations

import re

import pytest
from nexus_core.regexes import fault_of

GOOD = (
    r"/a.*",
    r"/v[12]/(orders|carts)(/.*)?",
    r"(/[^/]+)*",
    r"(\d+,)*x",
    r"/[^/]+/x/[^/]+/y/[^/]+/z/[^/]+",
    r"/.*/reports/.*",
    r"(?i:AB|cd)+",
    r"[\w-]+(/[\w-]+)*/?",
    r"([a-z]+\.)*example",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"(?=.*\d)[a-z\d]{8,20}",
    r"(a{3})*",
    r"(?:a|b)+",
    r"x*y*z*",
    r"(/(orders|carts|v[0-9]+))*",
    r"/(?:en|de|fr)(?:/[a-z0-9-]+)+(?:\.html)?",
    r"/api/v\d+/users/\d+(?:/posts/\d+)?",
    r"a++b",
    r"",
    r"日本.*",
    r"/[a-z0-9]{1,40}-[a-z0-9]{1,40}-[a-z0-9]{1,40}-[a-z0-9]{1,40}",
    r"/(?:api/)?(?:v[0-9]{1,3}/)?[\w-]{1,30}(?:\.(?:json|xml))?",
    r"/colou?rs?(?:/.*)?",
    r"[^а-я]*x",
    "(" * 50 + ")" * 50,
)
BAD = (
    (r"(a+)*", "repeat inside a repeat"),
    (r"(a*)*", "repeat inside a repeat"),
    (r"(\d+,?)*", "repeat inside a repeat"),
    (r"(x+x+)+y", "repeat inside a repeat"),
    (r"(a?a)*", "repeat inside a repeat"),
    (r"(a*ba*)*", "repeat inside a repeat"),
    (r"(a|aa)*", "repeat inside a repeat"),
    (r"(.*,){11}P", "repeat inside a repeat"),
    (r"(a{0,30}){0,30}", "repeat inside a repeat"),
    (r"(?>a+)*", "repeat inside a repeat"),
    (r"(/?[^/]*)*", "repeat inside a repeat"),
    (r"(?=(a+)+b)x", "repeat inside a repeat"),
    (r"((c|c)a)*", "sides can begin alike"),
    (r"((a?|b?)c)*", "sides can begin alike"),
    (r"(a|b|[^c]d)*", "sides can begin alike"),
    (r".*a.*b.*", "more than two open repeats"),
    (r"(.+){2}.+", "more than two open repeats"),
    (r"(b|ab{0,3}[ab]{2})+", "repeat inside a repeat"),
    (r"a(\w*ab[ab]*){2}", "more than two open repeats"),
    (r"(\w*b\w*|c)\w*", "more than two open repeats"),
    (r"a*b*a*b*a*c", "more than two open repeats"),
    (r"(?:a*b?){2}a*c", "more than two open repeats"),
    (r"(?i:[ab]*[AB]*[ab]*c)", "more than two open repeats"),
    (r"([а-я]+)*x", "repeat inside a repeat"),
    (r"[а-я]*я[а-п]*п[а-я]*x", "more than two open repeats"),
    ("a?" * 28 + "a" * 28, "too many repeats"),
    (".?" * 26 + "x", "too many repeats"),
    ("(?:a|b)?" * 26 + "x", "too many repeats"),
    (".{0,30}" * 5 + "x", "too many repeats"),
    (r".*" + "a?" * 12 + "x", "too many repeats"),
    (r"(a)\1", "refers back"),
    (r"(?P<n>a+)(?P=n)", "refers back"),
    (r"(a", "is none at character 1: missing )"),
    (r"[z-a]", "is none at character 2: bad character range"),
    (r"a" * 1025, "longer than 1024 characters"),
    ("(" * 2000, "longer than 1024"),
)


@pytest.mark.parametrize("expression", GOOD)
def test_a_harmless_expression_is_taken(expression: str) -> None:
    assert fault_of(expression) == ""
    re.compile(expression)


@pytest.mark.parametrize(("expression", "says"), BAD, ids=[text[:30] for text, _ in BAD])
def test_an_expression_that_is_wrong_or_can_take_for_ever_is_refused(expression: str, says: str) -> None:
    assert says in fault_of(expression)
