"""Settings, scalars, the cache, what is known of a document, and what GraphiQL accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLError, get_introspection_query, parse
from nexus_graphql import settings
from nexus_graphql.catalogue.documents import Known, receive
from nexus_graphql.execute import limits
from nexus_graphql.execute.cache import DocumentCache
from nexus_graphql.graphiql import SCRIPTS, GraphiqlPage
from nexus_graphql.http import _encode as encode
from nexus_graphql.schema import names, scalars
from nexus_sdk import SettingsError

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "graphql.md"


def test_defaults_hold_without_environment_and_empty_counts_as_unset() -> None:
    assert settings.parse({}) == settings.GraphqlSettings()
    assert settings.parse({"NEXUS_GRAPHQL_PATH": " ", "NEXUS_GRAPHQL_MAX_DEPTH": ""}) == settings.GraphqlSettings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NEXUS_GRAPHQL_PATH", "graphql"), ("NEXUS_GRAPHQL_PATH", "//host"), ("NEXUS_GRAPHQL_PATH", "/a{b}"),
        ("NEXUS_GRAPHQL_TIMEOUT_SECONDS", "nan"), ("NEXUS_GRAPHQL_TIMEOUT_SECONDS", "soon"),
        ("NEXUS_GRAPHQL_MAX_DEPTH", "0"), ("NEXUS_GRAPHQL_MAX_DEPTH", "1.5"), ("NEXUS_GRAPHQL_INTROSPECTION", "maybe"),
        ("NEXUS_GRAPHQL_FORWARD_HEADERS", "bad header"), ("NEXUS_GRAPHQL_SERVICES", "[a]"), ("NEXUS_GRAPHQL_SERVICES", "!"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}: .*Use "):
        settings.parse({variable: value})


def test_every_setting_is_documented_and_every_documented_one_is_read() -> None:
    class Asked(dict[str, str]):
        seen: set[str] = set()  # noqa: RUF012 -- one instance

        def get(self, key: str, default: Any = None) -> Any:
            self.seen.add(key)
            return default

    asked = Asked()
    settings.parse(asked)
    rows = {line.split("`")[1] for line in REFERENCE.read_text().splitlines() if line.startswith("| `NEXUS_")}
    assert rows == asked.seen


def test_forwarded_headers_can_be_none() -> None:
    assert settings.parse({"NEXUS_GRAPHQL_FORWARD_HEADERS": "none"}).forward_headers == ()
    assert settings.parse({"NEXUS_GRAPHQL_FORWARD_HEADERS": "X-A, b"}).forward_headers == ("x-a", "b")


@pytest.mark.parametrize(
    ("scalar", "right", "wrong"),
    [
        ("DateTime", ["2026-01-31T12:00:00Z", "2026-01-31t12:00:60.5+02:00"],
         ["2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31T12:00:00", 5, None, "2026-01-31T25:00:00Z"]),
        ("Date", ["2026-02-28"], ["2026-02-30", "20260228", 20260228]),
        ("UUID", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x" * 36, 1]),
        ("BigInt", [1, 2**53 - 1, -5], [True, 1.5, "1.0", "", None, [], "9" * 41]),
        ("JSON", [1, "x", [1], {"a": None}], []),
    ],
)  # fmt: skip
def test_scalars(scalar: str, right: list[Any], wrong: list[Any]) -> None:
    made = scalars.build()[scalar]
    for value in right:
        assert made.coerce_output_value(value) == value
        assert made.coerce_input_value(value) == value
    for value in wrong:
        with pytest.raises(GraphQLError, match=f"{scalar} cannot represent"):
            made.coerce_output_value(value)
        with pytest.raises(GraphQLError, match="write"):
            made.coerce_input_value(value)


@pytest.mark.parametrize(
    ("text", "field", "type_", "value"),
    [
        ("first-name", "firstName", "FirstName", "first_name"), ("X-Tenant", "xTenant", "XTenant", "X_Tenant"),
        ("ID", "ID", "ID", "ID"), ("__typename", "_typename", "_Typename", "typename"),
        ("2nd", "_2nd", "_2nd", "_2nd"), ("", "field", "Type", "EMPTY"), ("☃", "field", "Type", "VALUE"),
        ("-price", "price", "Price", "minus_price"), ("true", "true", "True", "TRUE"), ("café au lait", "cafeAuLait",
         "CafeAuLait", "cafe_au_lait"),
    ],
)  # fmt: skip
def test_names(text: str, field: str, type_: str, value: str) -> None:
    assert (names.field_name(text), names.type_name(text), names.enum_name(text)) == (field, type_, value)


def test_the_cache_forgets_what_was_used_longest_ago_and_is_bounded_by_text() -> None:
    cache: DocumentCache[int] = DocumentCache(most=2, most_chars=10)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("b"), cache.get("a"), cache.get("c"), len(cache)) == (None, 1, 3, 2)
    cache.put("x" * 10, 4)
    assert (len(cache), cache.get("x" * 10)) == (1, 4)
    cache.put("y" * 11, 5)
    assert cache.get("y" * 11) is None
    assert (cache.hits, cache.misses) == (4, 2)


GOOD = json.dumps({"openapi": "3.1.0", "paths": {"/a": {"get": {"responses": {"204": {}}}}}}).encode()


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'{"openapi": "1"}', b"[" * 100_000])
def test_a_bad_document_never_takes_the_place_of_a_good_one(body: bytes) -> None:
    fresh = Known("a.shop", "/openapi.json", 0.0)
    first = receive(fresh, body, "")
    assert (first.info().state, first.info().operations) == ("broken", 0)
    good = receive(first, GOOD, '"1"')
    assert (good.info().state, good.info().operations, good.info().problem) == ("live", 1, None)
    after = receive(good, body, '"2"')
    assert after.model is good.model
    assert (after.info().state, after.info().operations) == ("broken", 1)
    assert after.info().problem
    assert receive(after, GOOD, '"3"').info().state == "live"


def test_an_unchanged_document_keeps_its_model() -> None:
    good = receive(Known("a.shop", "/openapi.json", 0.0), GOOD, "")
    assert receive(good, GOOD, '"new"').model is good.model


def test_graphiql_takes_only_the_pinned_scripts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="npm install --prefix DIR react@"):
        GraphiqlPage(str(tmp_path))
    for asset in SCRIPTS:
        place = tmp_path / asset.package / asset.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("alert(1)")
    (tmp_path / "graphiql" / "graphiql.min.css").write_text("*{}")
    with pytest.raises(SettingsError, match="is not that of graphiql"):
        GraphiqlPage(str(tmp_path))
    with pytest.raises(SettingsError, match="is no URL"):
        GraphiqlPage("https://host;script-src *")


def test_thousands_of_properties_may_want_one_name() -> None:
    """Ends within the test's time: with a search from 2 each time this would be a thousand million steps."""
    scope = names.Scope()
    given = [scope.take("a") for _ in range(30_000)]
    assert given[:3] == ["a", "a_2", "a_3"]
    assert len(set(given)) == 30_000
    assert scope.take("a_2") == "a_2_2"


def test_aliases_within_introspection_count() -> None:
    """Each is done for every type of the schema: 300 of them held up the event loop for a second."""
    bomb = parse("{__schema{types{" + " ".join(f"a{n}: fields {{name}}" for n in range(31)) + "}}}")
    assert [e.message.split(",")[0] for e in limits.check(bomb, limits.Limits())] == ["The operation has 31 aliases"]
    assert limits.check(parse(get_introspection_query()), limits.Limits()) == []


def test_an_answer_with_numbers_of_every_size_is_written() -> None:
    assert json.loads(encode({"data": {"a": [2**70, float("inf")], "b": "\ud800"}})) == {
        "data": {"a": [2**70, None], "b": "\ud800"}
    }
