"""How arguments travel: rows of OpenAPI's own table of styles, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_graphql.execute import requests
from nexus_graphql.schema import Argument, Operation, read
from nexus_graphql.schema.shapes import Scalar, TypeRef

ANY = TypeRef(Scalar("JSON"))
LIST, OBJECT = ["blue", "black"], {"R": 100, "G": 200}


def build(value: Any, *, path: str = "/x", location: Any = "query", **more: Any) -> requests.UpstreamRequest:
    argument = Argument("colour", "color", location, ANY, **more)
    operation = Operation("s.shop", "w", "query", "POST", path, (argument,), ANY)
    return requests.build(operation, {"colour": value})


@pytest.mark.parametrize(
    ("style", "explode", "value", "query"),
    [
        ("form", True, "blue", "color=blue"), ("form", False, "", "color="), ("form", True, LIST, "color=blue&color=black"),
        ("form", False, LIST, "color=blue%2Cblack"), ("form", True, OBJECT, "R=100&G=200"),
        ("form", False, OBJECT, "color=R%2C100%2CG%2C200"), ("spaceDelimited", False, LIST, "color=blue%20black"),
        ("pipeDelimited", False, LIST, "color=blue%7Cblack"), ("deepObject", True, OBJECT, "color[R]=100&color[G]=200"),
        ("json", False, OBJECT, "color=%7B%22R%22%3A100%2C%22G%22%3A200%7D"), ("form", True, True, "color=true"),
        ("form", True, 1.5, "color=1.5"), ("form", True, "a&b=c#d é", "color=a%26b%3Dc%23d%20%C3%A9"),
        ("form", True, [], ""), ("form", True, None, ""), ("form", True, [None, "x"], "color=x"),
    ],
)  # fmt: skip
def test_query_parameters(style: str, explode: bool, value: Any, query: str) -> None:
    assert build(value, style=style, explode=explode).target == (f"/x?{query}" if query else "/x")


@pytest.mark.parametrize(
    ("explode", "value", "text"),
    [(False, LIST, "blue,black"), (False, OBJECT, "R,100,G,200"), (True, OBJECT, "R=100,G=200"), (False, 7, "7")],
)
def test_simple_style_in_path_and_header(explode: bool, value: Any, text: str) -> None:
    assert build(value, location="header", explode=explode).headers["color"] == text
    target = build(value, path="/x/{color}/y", location="path", explode=explode).target
    assert target == f"/x/{text.replace(',', '%2C').replace('=', '%3D')}/y"


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_dot_segments_are_refused(value: str) -> None:
    with pytest.raises(requests.Unsendable, match="'colour'"):
        build(value, path="/x/{color}", location="path")


def test_a_document_s_own_dot_segments_are_refused() -> None:
    with pytest.raises(requests.Unsendable, match="dot segment"):
        build("blue", path="/x/../{color}/y", location="path")


def test_control_characters_in_a_header_are_refused() -> None:
    with pytest.raises(requests.Unsendable, match="control characters"):
        build("a\r\nx-admin: 1", location="header")


@pytest.mark.parametrize("location", ["body", "query", "header"])
@pytest.mark.parametrize("value", [float("inf"), {"a": [float("nan")]}])
def test_numbers_that_json_has_not_are_refused(location: str, value: object) -> None:
    with pytest.raises(requests.Unsendable, match="number that JSON has not"):
        build(value, location=location, style="json")


@pytest.mark.parametrize("name", ["Host", "Content-Length", "transfer-encoding", "Connection"])
def test_no_argument_frames_the_message(name: str) -> None:
    parameter = {"in": "header", "name": name, "schema": {"type": "string"}}
    path = {"get": {"parameters": [parameter], "responses": {"204": {}}}}
    model = read("s.shop", {"openapi": "3.1.0", "paths": {"/x": path}})
    assert [o.arguments for o in model.operations] == [()]
    assert "frames the message" in str(model.notes[0])


def test_bodies() -> None:
    sent = build({"a": [1, 2], "b": None, "c": True}, location="body")
    assert (sent.body, sent.headers["content-type"]) == (b'{"a":[1,2],"b":null,"c":true}', "application/json")
    sent = build({"a": [1, 2], "b": None, "c": "x y"}, location="body", form=True)
    assert sent.body == b"a=1&a=2&c=x%20y"
    assert sent.headers["content-type"] == "application/x-www-form-urlencoded"
    assert build(None, location="body").body == b"null"
