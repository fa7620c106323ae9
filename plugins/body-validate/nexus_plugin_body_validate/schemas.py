"""Schemas, compiled once: JSON Schema draft 2020-12, and the dialects of OpenAPI 3.0 and 3.1.

A schema refers only to its own document; nothing is fetched. Its patterns are judged before they meet a stranger's text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from jsonschema import Draft4Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from nexus_sdk.plugin import PluginConfigError, pattern_fault
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from .faults import Fault, pointer
from .formats import CHECKER

Dialect = Literal["2020-12", "3.0"]
Direction = Literal["request", "response"]

_URI = "urn:nexus:document"
_NAMED = frozenset({
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "schemas", "responses", "parameters", "requestBodies",
    "headers", "content", "paths", "pathItems", "components",
})  # fmt: skip
"""Keywords whose members are named by the author, so that a member `$ref` or `pattern` is no keyword."""
_DATA = frozenset({"example", "examples", "default", "const", "enum"})


class Document:
    """A JSON Schema or an OpenAPI document, whose schemas refer to each other."""

    def __init__(self, content: Mapping[str, Any], where: str, dialect: Dialect = "2020-12") -> None:
        """where: of the configuration, for errors. Raises PluginConfigError for a reference or a pattern that cannot be used."""
        self.content = {key: value for key, value in content.items() if key != "$id"}
        self.dialect = dialect
        self._where = where
        self._registry: Registry[Any] = Registry().with_resource(_URI, DRAFT202012.create_resource(self.content))
        self._resolver = self._registry.resolver(_URI)
        self._judge(self.content, where, named=False)

    def resolve(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a node refers to, or the node. Raises PluginConfigError."""
        for _ in range(32):
            reference = node.get("$ref")
            if not isinstance(reference, str):
                return dict(node)
            node = self._look_up(reference, self._where)
        raise PluginConfigError(f"{self._where}: $ref {reference!r} leads in a circle.")

    def compile(self, schema: Any, where: str, direction: Direction = "request") -> Schema:
        """Return a schema of this document, ready for values. Raises PluginConfigError."""
        meta = Draft4Validator if self.dialect == "3.0" else Draft202012Validator
        try:
            meta.check_schema(schema)
        except SchemaError as error:
            path = "/".join(map(str, error.absolute_path))
            raise PluginConfigError(f"{where}{'/' if path else ''}{path}: {error.message[:300]}.") from error
        kind = _KINDS[self.dialect, direction]
        return Schema(kind(schema, registry=self._registry, format_checker=CHECKER, _resolver=self._resolver), where)

    def _look_up(self, reference: str, where: str) -> Any:
        if not reference.startswith("#"):
            raise PluginConfigError(
                f"{where}: $ref {reference!r} leaves the document. Put what it names into the document, below components or $defs."
            )
        try:
            return self._resolver.lookup(reference).contents
        except Unresolvable as error:
            raise PluginConfigError(f"{where}: $ref {reference!r} names nothing in the document.") from error

    def _judge(self, node: Any, where: str, *, named: bool) -> None:
        if isinstance(node, list):
            for index, each in enumerate(node):
                self._judge(each, f"{where}[{index}]", named=False)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            here = f"{where}.{key}"
            if named:
                self._judge(value, here, named=False)
                continue
            if key == "$ref" and isinstance(value, str):
                self._look_up(value, where)
            elif key in ("$id", "$dynamicRef", "$recursiveRef"):
                raise PluginConfigError(f"{here}: {key} is not supported; refer with $ref to a place in the document.")
            elif key == "pattern" and isinstance(value, str):
                _judge_pattern(value, here)
            elif key not in _DATA:
                if key == "patternProperties" and isinstance(value, dict):
                    for pattern in value:
                        _judge_pattern(pattern, here)
                self._judge(value, here, named=key in _NAMED)


class Schema:
    """One compiled schema."""

    def __init__(self, validator: Any, where: str) -> None:
        self._validator = validator
        try:
            self.faults(None, 1)
        except RecursionError as error:
            raise PluginConfigError(f"{where}: the schema refers to itself without end.") from error

    def faults(self, value: Any, limit: int) -> list[Fault]:
        """Return what is wrong with a JSON value, at most so many. Raises RecursionError for one that is nested too deeply."""
        errors: Iterator[ValidationError] = self._validator.iter_errors(value)
        return list(islice((fault for error in errors for fault in _explain(error)), limit))


def _judge_pattern(pattern: str, where: str) -> None:
    fault = pattern_fault(pattern)
    if fault:
        raise PluginConfigError(f"{where}: The expression {pattern[:100]!r} {fault}.")


# ---- keywords that are not as `jsonschema` has them


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """As `uniqueItems`, in linear time: the library compares each item with each other one where they cannot be sorted."""
    if wanted and validator.is_type(instance, "array"):
        seen = {json.dumps(_comparable(item), sort_keys=True) for item in instance}
        if len(seen) != len(instance):
            yield ValidationError("has equal items")


def _comparable(value: Any) -> Any:
    """Return the value so that what JSON Schema calls equal has one text: 1.0 is 1, and true is not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    return value


def _nullable_type(validator: Any, types: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if instance is None and schema.get("nullable") is True:
        return
    yield from Draft202012Validator.VALIDATORS["type"](validator, types, instance, schema)


def _minimum(validator: Any, minimum: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "number"):
        return
    if instance < minimum or (schema.get("exclusiveMinimum") is True and instance == minimum):
        yield ValidationError("too small")


def _maximum(validator: Any, maximum: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "number"):
        return
    if instance > maximum or (schema.get("exclusiveMaximum") is True and instance == maximum):
        yield ValidationError("too large")


def _nothing(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    yield from ()


def _required_but(flag: str) -> Any:
    """Return `required` that does not miss what only goes the other way (OpenAPI's readOnly and writeOnly)."""

    def required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(instance, "object"):
            return
        properties = schema.get("properties", {})
        for name in names:
            if name not in instance and not _has_flag(validator, properties.get(name), flag):
                yield ValidationError("missing", path=(name,))

    return required


def _has_flag(validator: Any, schema: Any, flag: str) -> bool:
    for _ in range(8):
        if not isinstance(schema, dict):
            return False
        if schema.get(flag) is True:
            return True
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return False
        schema = validator._resolver.lookup(reference).contents
    return False


_30 = {
    "type": _nullable_type, "minimum": _minimum, "maximum": _maximum, "exclusiveMinimum": _nothing, "exclusiveMaximum": _nothing,
}  # fmt: skip
_KINDS = {
    (dialect, direction): extend(
        Draft202012Validator,
        {"uniqueItems": _unique, "required": _required_but(flag), **(_30 if dialect == "3.0" else {})},
    )
    for dialect in ("2020-12", "3.0")
    for direction, flag in (("request", "readOnly"), ("response", "writeOnly"))
}


# ---- errors, in words

_WORDS = {
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} members",
    "maxProperties": "must have at most {} members",
    "exclusiveMinimum": "must be greater than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "pattern": "must match {}",
    "format": "must be a {}",
    "const": "must be {}",
    "uniqueItems": "must not have two equal items",
    "anyOf": "matches none of the allowed forms",
    "oneOf": "must match just one of the allowed forms",
    "not": "has a form that is not allowed",
    "contains": "lacks an item that it needs",
    "unevaluatedProperties": "has members that are not known",
    "unevaluatedItems": "has items that are not known",
    "dependentRequired": "lacks a member that another needs",
}


def _explain(error: ValidationError) -> Iterator[Fault]:
    """Yield what an error means, without the value it is about."""
    path = list(error.absolute_path)
    keyword, wanted = error.validator, error.validator_value
    schema = error.schema if isinstance(error.schema, dict) else {}
    if keyword == "required":
        yield Fault("is required", pointer(path))
    elif keyword == "additionalProperties" and isinstance(error.instance, dict) and wanted is False:
        known = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        if patterns:
            yield Fault("has members that are not known", pointer(path))
            return
        for name in error.instance:
            if name not in known:
                yield Fault("is not known", pointer([*path, name]))
    elif keyword == "type":
        types = wanted if isinstance(wanted, list) else [wanted]
        yield Fault(f"must be of type {' or '.join(map(str, types))}", pointer(path))
    elif keyword == "enum" and isinstance(wanted, list):
        shown = ", ".join(json.dumps(each)[:40] for each in wanted[:10])
        yield Fault(f"must be one of: {shown}{', …' if len(wanted) > 10 else ''}", pointer(path))
    elif keyword == "minimum":
        than = "greater than" if schema.get("exclusiveMinimum") is True else "at least"
        yield Fault(f"must be {than} {wanted}", pointer(path))
    elif keyword == "maximum":
        than = "less than" if schema.get("exclusiveMaximum") is True else "at most"
        yield Fault(f"must be {than} {wanted}", pointer(path))
    elif keyword in _WORDS:
        shown = wanted if isinstance(wanted, str) else json.dumps(wanted)
        yield Fault(_WORDS[str(keyword)].format(str(shown)[:200]), pointer(path))
    else:
        yield Fault(f"is not what {keyword or 'the schema'} allows" if keyword else "is not allowed", pointer(path))
