"""Any document gives a schema or a reason; every name is legal; order and repetition do not show."""

from __future__ import annotations

from typing import Any

from graphql import assert_name, build_schema, get_introspection_query, graphql_sync, parse, print_schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nexus_graphql import schema
from nexus_graphql.execute import limits, requests
from nexus_graphql.schema import names, scalars
from nexus_graphql.schema.shapes import EnumShape, ObjectShape

CALM = settings(max_examples=150, suppress_health_check=list(HealthCheck))

words = st.one_of(
    st.sampled_from(["id", "name", "a-b", "aB", "a_b", "__x", "Query", "String", "input", "type", "1st", "", "é", "☃"]),
    st.text(max_size=8),
)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
COMPONENTS = ["A", "B", "c-d", "Query", "A_B"]
refs = st.sampled_from([f"#/components/schemas/{n}" for n in [*COMPONENTS, "Missing"]] + ["x.json#/A", "#", "#/info"])


def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, max_size=3)
    properties = st.dictionaries(words, inner, max_size=4)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["object", ["object", "null"]]), "properties": properties},
            optional={"required": st.lists(words, max_size=4), "title": words, "additionalProperties": inner},
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"allOf": some}, optional={"properties": properties, "nullable": st.booleans()}),
        st.fixed_dictionaries({"oneOf": some}),
        st.fixed_dictionaries({"anyOf": some}, optional={"type": st.just("object")}),
    )


kinds = st.sampled_from(
    ["string", "integer", "number", "boolean", "object", "array", "null", "colour", 7, ["string", "null"]]
)
leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": kinds},
        optional={
            "enum": st.lists(st.one_of(words, st.none(), st.integers(0, 3)), max_size=4), "nullable": st.booleans(),
            "format": st.sampled_from(["int64", "date-time", "uuid", "date", "odd"]), "readOnly": st.booleans(),
            "default": junk, "deprecated": st.booleans(), "description": words,
        },
    ),
    st.builds(lambda r: {"$ref": r}, refs), junk,
)  # fmt: skip
schemas = st.recursive(leaves, extend, max_leaves=12)


def content(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    media = st.sampled_from(["application/json", "application/problem+json", "text/plain", "*/*", "image/png"])
    return st.dictionaries(media, st.fixed_dictionaries({"schema": inner}), max_size=2)


parameters = st.fixed_dictionaries(
    {"name": words, "in": st.sampled_from(["path", "query", "header", "cookie", "moon"])},
    optional={
        "schema": schemas, "required": st.booleans(), "explode": st.booleans(), "deprecated": st.booleans(),
        "style": st.sampled_from(["form", "simple", "deepObject", "pipeDelimited", "matrix"]),
    },
)  # fmt: skip
operations = st.fixed_dictionaries(
    {"responses": st.dictionaries(st.sampled_from(["200", "204", "2XX", "404", "default"]),
                                  st.fixed_dictionaries({}, optional={"content": content(schemas)}), max_size=2)},
    optional={
        "operationId": words, "parameters": st.lists(st.one_of(parameters, junk), max_size=4), "deprecated": st.booleans(),
        "requestBody": st.fixed_dictionaries({"content": content(schemas)}, optional={"required": st.booleans()}),
        "summary": words, "x-nexus-graphql": junk,
    },
)  # fmt: skip
paths = st.dictionaries(
    st.one_of(st.sampled_from(["/a", "/a/{id}", "/a-b", "/{x}/{y}", "x", "//h/p", "/"]), words.map(lambda w: f"/{w}")),
    st.one_of(
        st.dictionaries(st.sampled_from(["get", "post", "put", "delete", "patch", "head"]), operations, max_size=3),
        junk,
    ),
    max_size=4,
)
documents = st.fixed_dictionaries(
    {"openapi": st.sampled_from(["3.0.3", "3.1.0"]), "paths": paths},
    optional={
        "components": st.fixed_dictionaries({"schemas": st.fixed_dictionaries(dict.fromkeys(COMPONENTS, schemas))}),
        "servers": junk, "info": junk,
    },
)  # fmt: skip


@CALM
@given(documents)
def test_any_document_becomes_a_valid_schema_with_legal_names(document: Any) -> None:
    model = schema.read("one.shop", document)
    built = schema.build([model])
    again = build_schema(print_schema(built))  # raises for an illegal name or an unknown type
    assert print_schema(again) == print_schema(built)
    for shape in model.types.values():
        assert_name(shape.wanted)
        if isinstance(shape, ObjectShape):
            assert len({f.name for f in shape.fields}) == len({f.source for f in shape.fields}) == len(shape.fields) > 0
        else:
            assert isinstance(shape, EnumShape)
            assert len({n for n, _ in shape.values}) == len({v for _, v in shape.values}) == len(shape.values) > 0
    assert graphql_sync(built, get_introspection_query()).errors is None


@CALM
@given(st.one_of(junk, documents), st.one_of(junk, documents))
def test_services_do_not_disturb_each_other_and_order_does_not_show(one: Any, other: Any) -> None:
    a, b = schema.read("a.shop", one), schema.read("b.shop", other)
    text = print_schema(schema.build([a, b]))
    assert text == print_schema(schema.build([b, a]))
    assert text == print_schema(schema.build([schema.read("a.shop", one), schema.read("b.shop", other)]))
    both = schema.build([a, b])
    for root in ("query_type", "mutation_type"):
        alone = [getattr(schema.build([m]), root) for m in (a, b)]
        count = sum(len(t.fields) for t in alone if t is not None) - (1 if root == "query_type" else 0)
        assert len(getattr(both, root).fields if getattr(both, root) else {}) == count


@CALM
@given(junk)
def test_junk_gives_a_reason_and_no_operation(document: Any) -> None:
    model = schema.read("one.shop", document)
    assert model.operations == ()
    assert model.is_broken
    assert all(note.what and note.fix for note in model.notes)


@given(st.text(max_size=200))
def test_every_text_becomes_legal_names_and_legal_names_stay(text: str) -> None:
    for made in (names.field_name(text), names.type_name(text), names.enum_name(text)):
        assert names.is_legal(made)
        assert names.field_name(made) == made
    if names.is_legal(text):
        assert names.field_name(text) == text


values = st.recursive(
    st.one_of(st.text(st.characters(exclude_categories=[]), max_size=6), st.integers(), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
styles = st.sampled_from(
    [("path", "simple"), ("query", "form"), ("query", "deepObject"), ("query", "json"), ("header", "simple")]
)


@given(values, styles, st.booleans())
def test_no_value_leaves_its_place_in_the_request(value: Any, where: tuple[Any, str], explode: bool) -> None:
    location, style = where
    text = schema.shapes.TypeRef(schema.shapes.Scalar("JSON"))
    argument = schema.Argument("v", "v", location, text, style=style, explode=explode)
    path = "/a/{v}/b" if location == "path" else "/a/b"
    operation = schema.Operation("s.shop", "w", "query", "GET", path, (argument,), text)
    if location == "path" and value is None:
        return  # GraphQL does not let null into a path: its arguments are never nullable
    try:
        request = requests.build(operation, {"v": value})
    except requests.Unsendable:
        return
    target, _, query = request.target.partition("?")
    assert target.isascii()
    assert query.isascii()
    assert target.count("/") == (3 if location == "path" else 2)
    assert not {".", "..", ""} & set(target.split("/")[1:])
    assert "#" not in request.target
    assert not any(c in v for v in request.headers.values() for c in "\r\n\0")


@given(st.integers())
def test_big_integers_survive_a_round_trip(number: int) -> None:
    big = scalars.build()["BigInt"]
    out = big.coerce_output_value(number)
    assert big.coerce_input_value(out) == number
    assert isinstance(out, str) is (abs(number) > scalars.SAFE)


fields = st.recursive(
    st.sampled_from(["x", "y"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"f {{ {' '.join(parts)} }}"),
    max_leaves=12,
)


@given(fields)
def test_limits_count_what_is_there(text: str) -> None:
    document = parse(f"{{ {text} }}")
    depth, most = 0, 0
    for char in f"{{ {text} }}":
        depth += (char == "{") - (char == "}")
        most = max(most, depth)
    count = sum(word in ("f", "x", "y") for word in text.split())
    exact = limits.Limits(depth=most, aliases=0, fields=count)
    assert limits.check(document, exact) == []
    assert len(limits.check(document, limits.Limits(depth=most - 1, aliases=0, fields=count))) == 1
    assert len(limits.check(document, limits.Limits(depth=most, aliases=0, fields=count - 1))) == 1
