"""The configuration that a plugin gets: defaults, secrets, and messages that hold none of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nexus_hosting.configuring import read_config, verify
from nexus_hosting.testing import make_instance
from nexus_marketplace.rejections import PluginRejected

CODE = "from nexus_sdk.plugin import Plugin\nclass Demo(Plugin):\n    pass\n"


def config(
    tmp_path: Path, schema: dict[str, Any], value: dict[str, Any], secrets: dict[str, str] | None = None
) -> dict[str, Any]:
    return read_config(make_instance(tmp_path, CODE, config=value, release={"config_schema": schema}), secrets or {})


def refusal(
    tmp_path: Path, schema: dict[str, Any], value: dict[str, Any], secrets: dict[str, str] | None = None
) -> str:
    with pytest.raises(PluginRejected) as caught:
        config(tmp_path, schema, value, secrets)
    assert caught.value.reason == "PluginConfigInvalid"
    return caught.value.message


NESTED = {
    "type": "object",
    "properties": {
        "cache": {"type": "object", "default": {}, "properties": {"ttl": {"type": "integer", "default": 60}}},
        "absent": {"type": "object", "properties": {"x": {"default": 1}}},
        "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}},
        "pair": {"type": "array", "prefixItems": [{"properties": {"a": {"default": 1}}}], "items": {"properties": {"b": {"default": 2}}}},
        "names": {"type": "array", "default": ["x"]},
        "off": {"type": "boolean", "default": False},
        "by": {"additionalProperties": {"properties": {"n": {"default": 5}}}},
        "referred": {"$ref": "#/$defs/number"},
    },
    "allOf": [{"properties": {"also": {"default": "yes"}}}],
    "$defs": {
        "rule": {"type": "object", "properties": {"limit": {"default": 10}, "inner": {"$ref": "#/$defs/rule"}}},
        "number": {"type": "integer", "default": 3},
    },
}  # fmt: skip
FILLED = {"cache": {"ttl": 60}, "names": ["x"], "off": False, "also": "yes", "referred": 3}


@pytest.mark.parametrize(
    ("value", "more"),
    [
        ({}, {}),
        ({"cache": {"ttl": 5}}, {"cache": {"ttl": 5}}),
        ({"cache": {"other": 1}}, {"cache": {"other": 1, "ttl": 60}}),
        ({"rules": [{}, {"limit": 1}]}, {"rules": [{"limit": 10}, {"limit": 1}]}),
        ({"rules": [{"inner": {"inner": {}}}]}, {"rules": [{"limit": 10, "inner": {"limit": 10, "inner": {"limit": 10}}}]}),
        ({"pair": [{}, {}]}, {"pair": [{"a": 1}, {"b": 2}]}),
        ({"by": {"k": {}}}, {"by": {"k": {"n": 5}}}),
        ({"names": []}, {"names": []}),
        ({"absent": {}}, {"absent": {"x": 1}}),
    ],
)  # fmt: skip
def test_defaults_are_filled_in_at_every_depth(tmp_path: Path, value: dict[str, Any], more: dict[str, Any]) -> None:
    assert config(tmp_path, NESTED, value) == {**FILLED, **more}


def test_defaults_are_held_against_the_schema_too(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"properties": {"n": {"type": "integer", "default": "five"}}}, {})
    assert message == ".spec.config.n: 'five' is not of type 'integer'"


def test_defaults_of_two_configurations_are_not_one_object(tmp_path: Path) -> None:
    schema = {"properties": {"names": {"default": ["x"]}}}
    config(tmp_path, schema, {})["names"].append("y")
    assert config(tmp_path, schema, {}) == {"names": ["x"]}


def test_errors_say_where(tmp_path: Path) -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": {"type": "integer"}}}}}}
    assert (
        refusal(tmp_path, schema, {"a": [{"b": 1}, {"b": "x"}]}) == ".spec.config.a[1].b: 'x' is not of type 'integer'"
    )
    closed = {"properties": {"a": {}}, "additionalProperties": False, "required": ["a"]}
    assert refusal(tmp_path, closed, {"a": 1, "c": 2}).startswith(
        ".spec.config: Additional properties are not allowed ('c'"
    )


SECRET = {
    "type": "object",
    "properties": {
        "redis": {
            "type": "object",
            "properties": {"password": {"type": "string", "writeOnly": True, "minLength": 8, "pattern": "^[a-z]+$"}},
            "required": ["user"],
        },
        "keys": {"type": "array", "items": {"$ref": "#/$defs/key"}},
    },
    "$defs": {"key": {"anyOf": [{"type": "integer"}, {"type": "string", "writeOnly": True, "maxLength": 3}]}},
}


def test_secrets_are_put_in_their_places(tmp_path: Path) -> None:
    found = config(tmp_path, {}, {"redis": {"user": "me"}}, {"redis.password": "s3cret", "new.place.here": "x"})
    assert found == {"redis": {"user": "me", "password": "s3cret"}, "new": {"place": {"here": "x"}}}
    message = refusal(tmp_path, {}, {"redis": "text"}, {"redis.password": "s3cret"})
    assert message == ".spec.config.redis is not an object, so spec.configFrom cannot put redis.password into it."


@pytest.mark.parametrize(
    ("value", "secrets", "text"),
    [
        ({"redis": {"user": "me", "password": "TOPSECRET!"}}, {}, "its value, which is secret, does not fit pattern"),
        ({"redis": {"user": "me"}}, {"redis.password": "TOPSECRET!"}, ".spec.config.redis.password: its value, which is secret"),
        ({"redis": {}}, {"redis.password": "TOPSECRET!"}, ".spec.config.redis: 'user' is a required property"),
        ({"redis": {"user": "me"}}, {"redis": "TOPSECRET!"}, "does not fit type"),
        ({"keys": ["TOPSECRET!"]}, {}, ".spec.config.keys[0]"),
        ({"redis": {"user": "me", "password": 12345678}}, {}, "does not fit type"),
    ],
)  # fmt: skip
def test_no_message_holds_a_secret(tmp_path: Path, value: dict[str, Any], secrets: dict[str, str], text: str) -> None:
    message = refusal(tmp_path, SECRET, value, secrets)
    assert text in message
    assert "TOPSECRET" not in message
    assert "12345678" not in message


def test_an_object_with_a_secret_in_it_is_not_shown(tmp_path: Path) -> None:
    schema = {"properties": {"a": {"properties": {"k": {"writeOnly": True}}, "enum": [{"k": "one"}]}}}
    message = refusal(tmp_path, schema, {"a": {"k": "TOPSECRET!"}})
    assert message.startswith(".spec.config.a: its value, which is secret, does not fit enum")
    assert "TOPSECRET" not in message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 5},
        {"$ref": "http://127.0.0.1:1/x"},
        {"$ref": "#/nowhere"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    ],
)
def test_a_broken_schema_is_the_publishers(tmp_path: Path, schema: dict[str, Any]) -> None:
    assert "is broken; tell its publisher" in refusal(tmp_path, schema, {"a": 1})


def test_references_in_a_circle_end(tmp_path: Path) -> None:
    schema = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"properties": {"n": {"default": 1}}}},
    }
    assert config(tmp_path, schema, {}) == {"n": 1}
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert "is broken" in refusal(tmp_path, circle, {})


def test_verify_returns_what_the_plugin_gets(tmp_path: Path) -> None:
    instance = make_instance(tmp_path, CODE, release={"config_schema": {"properties": {"n": {"default": 1}}}})
    assert verify(instance, {"s": "x"}) == {"n": 1, "s": "x"}
    json.dumps(verify(instance))


def test_of_what_a_secret_decides_that_is_not_known_nothing_is_said(tmp_path: Path) -> None:
    schema = {
        "type": "object", "required": ["redis"], "additionalProperties": False,
        "properties": {
            "n": {"type": "integer"},
            "redis": {"type": "object", "required": ["password"], "properties": {"password": {"type": "string", "minLength": 8}}},
        },
    }  # fmt: skip

    def told(value: dict[str, Any]) -> str:
        instance = make_instance(tmp_path, CODE, config=value, release={"config_schema": schema})
        try:
            read_config(instance, withheld=["redis.password"])
        except PluginRejected as rejected:
            return rejected.message
        return ""

    assert told({}) == ""
    assert told({"n": "x"}) == ".spec.config.n: 'x' is not of type 'integer'"
    assert "Additional properties" in told({"m": 1})
    assert "is not an object, so spec.configFrom" in told({"redis": 5})
