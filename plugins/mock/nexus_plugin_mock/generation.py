"""Values for schemas: the author's examples where there are some, else the smallest that the rules allow. Always the same ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from .documents import Document
from .expressions import text_for

_FORMATS = {
    "date": "2024-01-01", "date-time": "2024-01-01T00:00:00Z", "time": "00:00:00Z", "duration": "P1D", "email": "user@example.com",
    "idn-email": "user@example.com", "hostname": "example.com", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1",
    "uri": "https://example.com/", "uri-reference": "/", "iri": "https://example.com/", "byte": "AA==", "binary": "",
}  # fmt: skip
_MAX_ITEMS = 100
DEPTH = 12


class NoValue(ValueError):
    """No value is found for a schema; the message says what stands against it."""


class Generator:
    """Makes values for the schemas of one document. seed: another one gives other identifiers."""

    def __init__(self, document: Document, seed: int = 0) -> None:
        self._document = document
        self._seed = seed

    def value(self, schema: Any, place: str = "", depth: int = 0) -> Any:
        """Return a value. place: where in the whole, by which identifiers differ. Raises `NoValue`."""
        if schema is True or schema == {}:
            return {}
        if depth > DEPTH:
            raise NoValue(f"{place or '/'} goes on without end")
        schema = self._whole(schema, depth)
        for key in ("example", "const", "default"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        for key in ("oneOf", "anyOf"):
            if schema.get(key):
                return self._first(schema, key, place, depth)
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema, place, depth)
        if kind == "array":
            return self._array(schema, place, depth)
        if kind == "string":
            return self._text(schema, place)
        if kind in ("integer", "number"):
            return _number(schema, kind)
        return True if kind == "boolean" else None

    def _whole(self, node: Any, depth: int) -> dict[str, Any]:
        """Return the schema with its `allOf` in one."""
        schema: dict[str, Any] = self._document.resolve(node)
        if "allOf" not in schema:
            return schema
        if depth > DEPTH:
            raise NoValue("allOf goes on without end")
        made: dict[str, Any] = {}
        for part in [
            *(self._whole(each, depth + 1) for each in schema["allOf"]),
            {k: v for k, v in schema.items() if k != "allOf"},
        ]:
            for key, value in part.items():
                if key == "properties":
                    made[key] = {**made.get(key, {}), **value}
                elif key == "required":
                    made[key] = [*made.get(key, []), *value]
                elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems") and key in made:
                    made[key] = max(made[key], value)
                elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems") and key in made:
                    made[key] = min(made[key], value)
                else:
                    made[key] = value
        return made

    def _first(self, schema: Mapping[str, Any], key: str, place: str, depth: int) -> Any:
        rest = {name: value for name, value in schema.items() if name != key}
        trouble: NoValue | None = None
        for branch in schema[key]:
            try:
                return self.value({"allOf": [rest, branch]}, place, depth + 1)
            except NoValue as error:
                trouble = error
        raise NoValue(f"no side of {key} at {place or '/'} has a value") from trouble

    def _object(self, schema: Mapping[str, Any], place: str, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        made: dict[str, Any] = {}
        for name, inner in schema.get("properties", {}).items():
            if self._document.resolve(inner).get("writeOnly") is True:
                continue
            try:
                made[name] = self.value(inner, f"{place}/{name}", depth + 1)
            except NoValue:
                if name in required:
                    raise
        extra = schema.get("additionalProperties", True)
        for name in [*sorted(required - set(made)), *(f"extra{index}" for index in range(_MAX_ITEMS))]:
            if name not in required and len(made) >= int(schema.get("minProperties", 0)):
                break
            if extra is False:
                raise NoValue(f"{place}/{name} is required and not allowed")
            made[name] = self.value(extra, f"{place}/{name}", depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], place: str, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        made = [self.value(inner, f"{place}/{index}", depth + 1) for index, inner in enumerate(prefix)]
        least = int(schema.get("minItems", 0))
        wanted = max(least, min(1, int(schema.get("maxItems", 1))))
        if wanted > _MAX_ITEMS:
            raise NoValue(f"{place or '/'} needs {wanted} items; give an example")
        items = schema.get("items", True)
        while len(made) < wanted and items is not False:
            try:
                made.append(self.value(items, f"{place}/{len(made)}", depth + 1))
            except NoValue:
                if len(made) < least:
                    raise
                break
        return made

    def _text(self, schema: Mapping[str, Any], place: str) -> str:
        least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1 << 16))
        if "pattern" in schema:
            text = text_for(str(schema["pattern"]), least)
            if text is None:
                raise NoValue(f"no text is found for the pattern {str(schema['pattern'])[:100]!r}; give an example")
            return text
        if schema.get("format") == "uuid":
            digest = hashlib.sha256(f"{self._seed}{place}".encode()).digest()[:16]
            return str(UUID(bytes=digest, version=4))
        if least > 1 << 16:
            raise NoValue(f"{place or '/'} needs {least} characters; give an example")
        text = _FORMATS.get(str(schema.get("format")), "text")
        return (text * (least // max(len(text), 1) + 1))[:least] if len(text) < least else text[:most]


def _kind(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return str(next((each for each in kinds if each != "null"), "null"))
    if isinstance(kinds, str):
        return kinds
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if "pattern" in schema or "minLength" in schema or "format" in schema:
        return "string"
    return "number" if "minimum" in schema or "maximum" in schema else "object"


def _number(schema: Mapping[str, Any], kind: str) -> float:
    """Return the smallest number of the bounds, 0 where they allow it."""
    step = schema.get("multipleOf", 1 if kind == "integer" else None)
    low: float = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high: float = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    excluded = [schema[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in schema]
    if kind == "integer" and step is not None and not float(step).is_integer():
        step = 1  # such as 0.5: every integer is one of its multiples, or the value is refused when it is checked
    if low <= 0 <= high and 0 not in excluded:
        return 0
    if step is None:
        if low == -math.inf:
            return high if high not in excluded else high - 1
        if low not in excluded:
            return low
        return low + 1 if high == math.inf else (low + high) / 2
    found: float = math.ceil(low / step) * step if low > -math.inf else math.floor(high / step) * step
    if found in excluded:
        found += step if low > -math.inf else -step
    return int(found) if kind == "integer" else found
