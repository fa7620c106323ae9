"""Pydantic's errors in the words users need: the path as they wrote it, what is wrong, how to fix it.

Where the API server says the same of a schema, its words are used, so that both print alike.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic

from nexus_core.model.base import ForeignModel, Model
from nexus_core.model.rules import ERROR_TYPE
from nexus_core.problems import ObjectRef, Problem

Loc = Sequence[int | str]

SLIP = 0.8
"""How alike, by `difflib`, a field of a foreign kind is to one that Nexus reads, to be taken for that one misspelt. Of the fields of the
Gateway API 1.6 that Nexus does not read none is more than 0.6 like another beside it; `replacePath` for `replaceFullPath` is 0.85."""

TYPE_NAMES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "tuple_type": "a list",
    "list_type": "a list",
    "literal_error": "one of the listed values",
}
BOUNDS = {
    "greater_than_equal": ("should be greater than or equal to {}.", "ge", "Write {} or more."),
    "greater_than": ("should be greater than {}.", "gt", "Write more than {}."),
    "less_than_equal": ("should be less than or equal to {}.", "le", "Write {} or less."),
    "less_than": ("should be less than {}.", "lt", "Write less than {}."),
}


def path_of(loc: Loc, root: str = ".spec") -> str:
    """Return the path as users write it: `.spec.rules[0].backendRefs[1].name`. root: what it begins with."""
    parts = [root]
    for step in loc:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", step):
            parts.append(f".{step}")
        else:
            parts.append(f"[{json.dumps(step)}]")
    return "".join(parts) or "."


def problems_of(ref: ObjectRef, model: type[Model], error: pydantic.ValidationError) -> list[Problem]:
    """Return one problem for each error of a spec."""
    found = []
    for item in error.errors(include_url=False):
        if _counts_valid_items_alone(item):
            continue
        loc = _without_union_members(item["loc"])
        if item["type"] == "extra_forbidden":
            *parents, key = loc
            found.append(unknown_field(ref, parents, str(key), _fields_at(model, parents)))
        else:
            found.append(_problem(ref, loc, item["type"], item.get("input"), item.get("ctx") or {}, item["msg"]))
    return found


def _counts_valid_items_alone(item: Any) -> bool:
    """Whether a list is called too short only because Pydantic does not count its broken items, each of which has an error."""
    given = item.get("input")
    return (
        item["type"] == "too_short"
        and isinstance(given, list | tuple)
        and len(given) >= (item.get("ctx") or {}).get("min_length", 0)
    )


def unknown_field(ref: ObjectRef, parents: Loc, key: str, known: Iterable[str], root: str = ".spec") -> Problem:
    """Return the problem of a field that is not in the schema. known: the ones that are, beside it. root: see `path_of`."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    fix = f'Did you mean "{near[0]}"?' if near else f"Remove it; known here: {', '.join(known)}."
    if key in ("true", "false"):
        known_text = '"when"' if "when" in known else f"one of {', '.join(known)}"
        fix = f"YAML reads a bare on or yes as true, off or no as false. Write {known_text}."
    path = path_of([*parents, key], root)
    return Problem(ref, path, "InvalidSpec", f'unknown field "{path[1:]}".', fix)


def unread_fields(ref: ObjectRef, spec: Model) -> list[Problem]:
    """Return a problem for each field of somebody else's kind that Nexus does not read.

    One whose name is all but one that Nexus reads is taken for a slip of the pen (InvalidSpec); any other is the kind's own
    (UnsupportedValue).
    """
    found = []
    for loc in _extras(spec, ()):
        name = str(loc[-1])
        near = difflib.get_close_matches(name, _fields_at(type(spec), loc[:-1]), n=1, cutoff=SLIP)
        if near:
            what, fix = f'"{name}" is no field that Nexus knows.', f'Did you mean "{near[0]}"?'
            found.append(Problem(ref, path_of(loc), "InvalidSpec", what, fix))
            continue
        what = f'Nexus does not implement "{name}", and leaving it out would change what the object means.'
        fix = "Remove the field, or say the same with fields listed in docs/reference/gateway-api.md."
        found.append(Problem(ref, path_of(loc), "UnsupportedValue", what, fix))
    return found


def _extras(value: Any, loc: tuple[int | str, ...]) -> Iterable[tuple[int | str, ...]]:
    if isinstance(value, Model):
        for name, field in type(value).model_fields.items():
            yield from _extras(getattr(value, name), (*loc, field.alias or name))
        for name in value.unread if isinstance(value, ForeignModel) else ():
            yield (*loc, name)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _extras(item, (*loc, index))


def _without_union_members(loc: Loc) -> list[int | str]:
    # Pydantic names the tried member of a union in the path (`cpu.int`, `cpu.constrained-str`): users did not write it.
    members = {"int", "str", "constrained-str", "constrained-int"}
    return [step for i, step in enumerate(loc) if not (i == len(loc) - 1 and step in members and i > 0)]


def _fields_at(model: type[Model], loc: Loc) -> list[str]:
    """The field names of the model at a path; empty when it cannot be told."""
    here: Any = model
    for step in loc:
        if isinstance(step, int):
            here = _first_model(here)
            continue
        found = _first_model(here)
        field = next((f for n, f in found.model_fields.items() if (f.alias or n) == step), None) if found else None
        if field is None:
            return []
        here = field.annotation
    found = _first_model(here)
    return [f.alias or n for n, f in found.model_fields.items()] if found else []


def _first_model(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    for part in typing.get_args(annotation):
        if (found := _first_model(part)) is not None:
            return found
    return None


def _problem(ref: ObjectRef, loc: Loc, kind: str, given: Any, ctx: dict[str, Any], message: str) -> Problem:
    path = path_of(loc)
    shown = _shown(given)
    reason = "InvalidSpec"
    if kind == ERROR_TYPE:
        path += ctx["field"]
        return Problem(ref, path, ctx["reason"], ctx["what"], ctx["fix"])
    if kind == "missing":
        what, fix = "Required value.", f'Set "{loc[-1]}".' if loc else "Set it."
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(ctx.get("expected", "")))
        what = f"Unsupported value: {shown}: supported values: {', '.join(json.dumps(a) for a in allowed)}."
        near = difflib.get_close_matches(str(given), allowed, n=1)
        fix = f'Did you mean "{near[0]}"?' if near else "Write one of them."
    elif kind in BOUNDS:
        text, key, remedy = BOUNDS[kind]
        bound = f"{ctx[key]:g}" if isinstance(ctx[key], float) else str(ctx[key])
        what, fix = f"Invalid value: {shown}: {text.format(bound)}", remedy.format(bound)
    elif kind in ("string_too_short", "string_too_long", "too_short", "too_long"):
        what, fix = _length(kind, ctx)
    elif kind == "string_pattern_mismatch":
        what = f"Invalid value: {shown}: should match '{ctx['pattern']}'."
        fix = "Write it so that it fits the pattern."
    elif kind in TYPE_NAMES:
        what, fix = f"{shown} is not {TYPE_NAMES[kind]}.", f"Write {TYPE_NAMES[kind]}."
    else:
        what, fix = f"Invalid value: {shown}: {message}.", "See the field's description: kubectl explain shows it."
    return Problem(ref, path, reason, what, fix)


def _length(kind: str, ctx: dict[str, Any]) -> tuple[str, str]:
    unit = "characters" if kind.startswith("string") else "items"
    if kind.endswith("short"):
        least = ctx["min_length"]
        return f"It is too short: should have at least {least} {unit}.", f"Write {least} or more."
    most = ctx["max_length"]
    return f"Too long: may not be more than {most} {unit}.", f"Write {most} {unit} or fewer."


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
