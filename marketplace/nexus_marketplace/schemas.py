"""Whether a configuration's JSON Schema can be relied upon, before it is signed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 256 * 1024
_PLAIN = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "dependentSchemas")
_SINGLE = (
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
)

Fault = tuple[str, str, str]
"""(path below configSchema, what, fix)."""


def schema_faults(schema: Any) -> list[Fault]:
    """Return what is wrong with a schema; empty for a good one."""
    import jsonschema
    import msgspec

    if not isinstance(schema, dict):
        return [("", "it is no object", "Write a JSON Schema (draft 2020-12) of type object.")]
    if not schema:
        return []
    found: list[Fault] = []
    if schema.get("$schema", DRAFT) != DRAFT:
        found.append((".$schema", f"{schema['$schema']!r} is another draft", f"Write {DRAFT}."))
    if schema.get("type", "object") != "object":
        found.append((".type", "a configuration is an object", "Write type: object."))
    try:
        size = len(msgspec.json.encode(schema))
    except (TypeError, msgspec.MsgspecError, RecursionError) as error:
        return [*found, ("", f"it is not JSON: {error}", "Quote dates and keys, and use no anchors in a ring.")]
    if size > MAX_SCHEMA_BYTES:
        return [*found, ("", f"it has {size} bytes", f"Write at most {MAX_SCHEMA_BYTES}.")]
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        return [*found, (where, f"{error.message[:300]}", "Correct it as JSON Schema draft 2020-12 says.")]
    for where, part in _walk("", schema):
        found += _part_faults(where, part, schema)
    return found


def _part_faults(where: str, part: dict[str, Any], root: dict[str, Any]) -> Iterator[Fault]:
    import jsonschema
    import referencing

    for keyword in ("$ref", "$dynamicRef"):
        reference = part.get(keyword)
        if isinstance(reference, str) and not reference.startswith("#"):
            yield (
                f"{where}.{keyword}",
                f"{reference!r:.200} is elsewhere",
                "Copy it into $defs: gateways fetch no schemas.",
            )
            return
    if "default" not in part:
        return
    if part.get("writeOnly") is True:
        yield (f"{where}.default", "a secret has a default", "Take it out: everybody can read it.")
        return
    own = {key: value for key, value in part.items() if key != "default"}
    # `$defs` of the root are what local references lead to.
    if "$defs" in root:
        own["$defs"] = root["$defs"]
    validator = jsonschema.Draft202012Validator(own, registry=referencing.Registry())
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(part["default"]))
    except referencing.exceptions.Unresolvable as unresolved:
        yield (f"{where}.$ref", f"{unresolved}"[:300], "Correct the reference, to somewhere below #/$defs.")
        return
    if error is not None:
        yield (f"{where}.default", f"it does not follow its own schema: {error.message[:200]}", "Correct one of them.")


def _walk(where: str, part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(part, dict):
        return
    yield where, part
    for keyword in _PLAIN:
        for number, each in enumerate(part.get(keyword) or ()):
            yield from _walk(f"{where}.{keyword}[{number}]", each)
    for keyword in _NAMED:
        for name, each in (part.get(keyword) or {}).items():
            yield from _walk(f"{where}.{keyword}.{name}", each)
    for keyword in _SINGLE:
        yield from _walk(f"{where}.{keyword}", part.get(keyword))
