"""A Pydantic model's JSON Schema as a structural schema: what the API server takes in a CustomResourceDefinition.

No `$ref`, no `null` type, no `additionalProperties` beside `properties`, no `const`, `exclusiveMinimum` as a flag.
Source: Kubernetes documentation, "Specifying a structural schema".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_core.model.base import Model

KEPT = (
    "type",
    "description",
    "format",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
"""In the order they are written."""

DROPPED = frozenset({"title", "$defs", "additionalProperties", "patternProperties", "propertyNames"})


def structural(model: type[Model]) -> dict[str, Any]:
    """Return the model's structural schema. Raises ValueError for a model that has none: a mistake of ours."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(schema, schema.get("$defs", {}), model.__name__)


def _convert(schema: Mapping[str, Any], defs: Mapping[str, Any], where: str) -> dict[str, Any]:
    schema = _resolve(schema, defs)
    if "anyOf" in schema:
        return _union(schema, defs, where)
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]], "type": "string"}
    found = {key: schema[key] for key in KEPT if key in schema}
    if "default" in found:
        found["default"] = _without_nulls(found["default"])
    if found.get("default") in (None, [], {}, ""):
        found.pop("default", None)
    for limit in ("Minimum", "Maximum"):
        if f"exclusive{limit}" in schema:
            found[limit.lower()] = schema[f"exclusive{limit}"]
            found[f"exclusive{limit}"] = True
    if "properties" in schema:
        found["properties"] = {k: _convert(v, defs, f"{where}.{k}") for k, v in schema["properties"].items()}
    elif found.get("type") == "object":
        found |= _map(schema, defs, where)
    if "items" in schema:
        found["items"] = _convert(schema["items"], defs, f"{where}[]")
    known = {*KEPT, *DROPPED, "properties", "items", "const", "exclusiveMinimum", "exclusiveMaximum"}
    unknown = sorted(set(schema) - known)
    if unknown or "type" not in found:
        raise ValueError(f"{where} cannot be a structural schema: {unknown or 'it has no type'}. Change the model.")
    return found


def _without_nulls(value: Any) -> Any:
    """Leave out of a default what is not there: the API server takes no null where the schema says number or object."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value


def _resolve(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put the referred schema in place of `$ref`; what stands beside it wins."""
    while "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**defs[schema["$ref"].rsplit("/", 1)[-1]], **beside}
    return schema


def _union(schema: Mapping[str, Any], defs: Mapping[str, Any], where: str) -> dict[str, Any]:
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    members = [member for member in schema["anyOf"] if member.get("type") != "null"]
    if len(members) == 1:
        return _convert({**_resolve(members[0], defs), **beside}, defs, where)
    if sorted(str(member.get("type")) for member in members) == ["integer", "string"]:
        found: dict[str, Any] = {
            key: beside[key] for key in ("description", "x-kubernetes-validations") if key in beside
        }
        return {**found, "anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    raise ValueError(f"{where} is a union that no structural schema can say. Change the model.")


def _map(schema: Mapping[str, Any], defs: Mapping[str, Any], where: str) -> dict[str, Any]:
    values = schema.get("additionalProperties")
    patterns = schema.get("patternProperties")
    if patterns:
        # Patterns of keys are checked by the models alone: CRDs know none.
        (values,) = patterns.values()
    if isinstance(values, Mapping) and values:
        return {"additionalProperties": _convert(values, defs, f"{where}{{}}")}
    return {"x-kubernetes-preserve-unknown-fields": True}
