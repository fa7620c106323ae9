"""JSON Schema, as OpenAPI 3.0 and 3.1 have it, → GraphQL types.

Rules, in the order they are tried:
1. `$ref` names the type after the last part of its pointer; the same pointer is the same type, so recursion is by name.
2. `allOf` is merged. `oneOf`/`anyOf` with one branch beside null is that branch, nullable; with more it is `JSON`,
   because a GraphQL union needs a tag that the data may not carry, and input unions do not exist.
3. An enum of strings is an enum; other enums are their base type.
4. An object with properties is an object type; without any (a map, free-form) it is `JSON`.
5. Everything that is not understood is `JSON`, with a note: nothing is dropped in silence.
A property is `!` when it is required and not nullable. readOnly leaves inputs, writeOnly leaves outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_graphql.schema import names
from nexus_graphql.schema.pointers import Document, Unresolved, join
from nexus_graphql.schema.shapes import EnumShape, Field, ListOf, Named, Note, ObjectShape, Scalar, Shape, TypeRef

JSON = Scalar("JSON")
MOST_NODES = 20_000
"""Schema nodes of one document; past that the rest is `JSON`: a generated monster must not eat the memory."""
MOST_NESTED = 40
"""Levels of inline schemas, so that a hostile document cannot exhaust the stack."""
_INT32 = 2**31
_STRING_FORMATS = {"date-time": "DateTime", "date": "Date", "uuid": "UUID", "int64": "BigInt", "uint64": "BigInt"}
_ANNOTATIONS = frozenset({"description", "title", "deprecated", "readOnly", "writeOnly", "example", "examples",
                          "default", "externalDocs", "xml", "$comment"})  # fmt: skip


class Types:
    """Collects the types of one document while its operations are read."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.shapes: dict[str, Shape] = {}
        self.notes: dict[Note, None] = {}
        self._nodes = 0
        self._open: set[str] = set()

    def note(self, at: str, what: str, fix: str, *, lost: bool = False) -> None:
        # Bounded, because names and pointers are the document's.
        self.notes.setdefault(Note(at[:500], what[:500], fix[:500], lost=lost))

    def read(self, node: Any, at: str, hint: str, *, is_input: bool, depth: int = 0) -> TypeRef:
        """Return the type of the schema at pointer `at`, nullable as the schema itself says. Never raises.

        hint: the name wanted for an inline type.
        """
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > MOST_NESTED:
            self.note("", f"The document has more than {MOST_NODES} schemas or {MOST_NESTED} nested levels.",
                      "What lies beyond is JSON; split the document.")  # fmt: skip
            return TypeRef(JSON)
        if node is True or (isinstance(node, Mapping) and not node):
            return TypeRef(JSON)
        if not isinstance(node, Mapping):
            self.note(at, "This schema is not an object.", "Write a JSON Schema object; until then it is JSON.")
            return TypeRef(JSON)
        if isinstance(node.get("$ref"), str):
            return self._read_ref(node, at, hint, is_input=is_input, depth=depth)
        merged, nullable = self._merge(node, at)
        if merged is None:
            return TypeRef(JSON)
        ref = self._read_plain(merged, at, hint, is_input=is_input, depth=depth)
        return TypeRef(ref.type, nullable or ref.nullable)

    def _read_ref(self, node: Mapping[str, Any], at: str, hint: str, *, is_input: bool, depth: int) -> TypeRef:
        try:
            target, where = self.document.resolve(node, at)
        except Unresolved as err:
            self.note(at, str(err), "Define it under #/components/schemas; until then it is JSON.")
            return TypeRef(JSON)
        key = _key(where, is_input)
        if key in self.shapes:
            return TypeRef(Named(key), self._nullable(target))
        if where in self._open:
            # Met again while being read, and not an object (those are entered before their fields are read):
            # an array or a composition of itself, which no finite GraphQL type is.
            self.note(where, "This schema contains itself without an object in between.", "It is JSON.")
            return TypeRef(JSON)
        self._open.add(where)
        try:
            tail = where.rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~")
            return self.read(target, where, names.type_name(tail, hint), is_input=is_input, depth=depth + 1)
        finally:
            self._open.discard(where)

    def _nullable(self, node: Any) -> bool:
        if not isinstance(node, Mapping):
            return True
        kind = node.get("type")
        return node.get("nullable") is True or (isinstance(kind, list) and "null" in kind)

    # -- composition ---------------------------------------------------------------------------------------------

    def _merge(
        self, node: Mapping[str, Any], at: str, trail: frozenset[str] = frozenset()
    ) -> tuple[Mapping[str, Any] | None, bool]:
        """Return the schema with allOf and trivial oneOf/anyOf folded in, and whether null is allowed.

        None for the schema: it is JSON (noted). A folded reference keeps its own pointer under `x-nexus-at`.
        trail: the pointers whose composition this one is part of.
        """
        nullable = self._nullable(node)
        self._nodes += 1
        if at in trail or len(trail) > MOST_NESTED or self._nodes > MOST_NODES:
            self.note(at, "The composition never ends.", "Break the cycle of allOf; it is JSON.")
            return None, True
        trail |= {at}
        merged: dict[str, Any] = {k: v for k, v in node.items() if k not in ("allOf", "oneOf", "anyOf")}
        for keyword in ("oneOf", "anyOf"):
            if keyword not in node:
                continue
            branches = node[keyword]
            if not isinstance(branches, list) or not branches:
                self.note(join(at, keyword), f"{keyword} is not a list of schemas.", "It is JSON.")
                return None, True
            real = [(i, b) for i, b in enumerate(branches) if not _is_null(b)]
            nullable = nullable or len(real) < len(branches)
            if len(real) != 1 or _has_shape(merged):
                if real and _only_requires(branches):
                    continue  # `anyOf: [{required: [a]}, {required: [b]}]` constrains, it does not shape
                self.note(join(at, keyword), f"{keyword} of {len(real)} schemas has no GraphQL type.",
                          "It is JSON; give the alternatives one schema to have it typed.")  # fmt: skip
                return None, True
            index, branch = real[0]
            part, part_nullable = self._part(branch, join(at, keyword, index), trail)
            if part is None:
                return None, True
            nullable = nullable or part_nullable
            merged = {**part, **merged}
        if "allOf" in node:
            parts = node["allOf"]
            if not isinstance(parts, list) or not parts:
                self.note(join(at, "allOf"), "allOf is not a list of schemas.", "It is JSON.")
                return None, True
            # null is allowed only if every part and the schema itself allow it; a part with nothing but annotations
            # does not vote. (OpenAPI 3.0 writes `nullable: true` beside allOf to mean null is allowed: that counts too.)
            votes: list[bool] = []
            found: list[Mapping[str, Any]] = []
            for index, raw in enumerate(parts):
                part, part_nullable = self._part(raw, join(at, "allOf", index), trail)
                if part is None:
                    return None, True
                if _has_shape(part) or "enum" in part:
                    votes.append(part_nullable)
                found.append(part)
            if len(found) == 1 and not _has_shape(merged):
                merged = {**found[0], **merged}
            else:
                for part in found:
                    merged = self._combine(merged, part, at)
            nullable = nullable or (bool(votes) and all(votes))
        return merged, nullable

    def _part(self, raw: Any, at: str, trail: frozenset[str]) -> tuple[Mapping[str, Any] | None, bool]:
        if isinstance(raw, bool):
            return {}, True
        try:
            part, where = self.document.resolve(raw, at)
        except Unresolved as err:
            self.note(at, str(err), "Define it under #/components/schemas; until then it is JSON.")
            return None, True
        if not isinstance(part, Mapping):
            self.note(at, "This schema is not an object.", "Write a JSON Schema object; until then it is JSON.")
            return None, True
        merged, nullable = self._merge(part, where, trail)
        if merged is not None and where != at:
            merged = {"x-nexus-at": where, **merged}
        return merged, nullable

    def _combine(self, left: Mapping[str, Any], right: Mapping[str, Any], at: str) -> dict[str, Any]:
        out = {**right, **left}
        out.pop("x-nexus-at", None)
        a, b = left.get("properties"), right.get("properties")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for key in a.keys() & b.keys():
                if a[key] != b[key] and _is_typed(a[key]) and _is_typed(b[key]):
                    self.note(join(at, "allOf"), f"Two parts define the property {key!r} differently.",
                              "The outer or earlier one counts; make them equal.")  # fmt: skip
            out["properties"] = {**b, **{k: v if _is_typed(v) or k not in b else b[k] for k, v in a.items()}}
            # Order of the document: parts in turn, own properties last, as people read inheritance.
            out["properties"] = {k: out["properties"][k] for k in [*a, *(k for k in b if k not in a)]}
        lists = [x for x in (left.get("required"), right.get("required")) if isinstance(x, list)]
        if lists:
            out["required"] = [name for x in lists for name in x]
        return out

    # -- one plain schema ----------------------------------------------------------------------------------------

    def _read_plain(self, node: Mapping[str, Any], at: str, hint: str, *, is_input: bool, depth: int) -> TypeRef:
        at = node.get("x-nexus-at", at) if isinstance(node.get("x-nexus-at"), str) else at
        if at.startswith("/components/schemas/") and at.count("/") == 3:
            hint = names.type_name(at.rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~"), hint)
        elif isinstance(title := node.get("title"), str) and title.strip() and len(title) <= 60:
            hint = names.type_name(title, hint)
        kinds = node.get("type")
        real = [k for k in kinds if k != "null"] if isinstance(kinds, list) else [kinds] if kinds else []
        if len(real) > 1:
            if set(real) == {"integer", "number"}:
                return TypeRef(Scalar("Float"), nullable=False)
            self.note(join(at, "type"), f"Several types ({', '.join(map(str, real))}) have no GraphQL type.",
                      "It is JSON.")  # fmt: skip
            return TypeRef(JSON)
        kind = real[0] if real else _implied(node)
        if kind == "object":
            return self._read_object(node, at, hint, is_input=is_input, depth=depth)
        if kind == "array":
            if "items" not in node:
                return TypeRef(ListOf(TypeRef(JSON)), nullable=False)
            item = self.read(node["items"], join(at, "items"), f"{hint}Item", is_input=is_input, depth=depth + 1)
            return TypeRef(ListOf(item), nullable=False)
        if kind == "string":
            return self._read_string(node, at, hint)
        if kind == "integer":
            return TypeRef(Scalar("BigInt" if _is_big(node) else "Int"), nullable=False)
        if kind == "number":
            return TypeRef(Scalar("Float"), nullable=False)
        if kind == "boolean":
            return TypeRef(Scalar("Boolean"), nullable=False)
        if kind is not None:
            self.note(join(at, "type"), f"{kind!r} is not a type of JSON Schema.",
                      "Use object, array, string, integer, number or boolean; until then it is JSON.")  # fmt: skip
        return TypeRef(JSON)

    def _read_string(self, node: Mapping[str, Any], at: str, hint: str) -> TypeRef:
        values = node.get("enum")
        if not isinstance(values, list) or not values:
            return TypeRef(Scalar(_STRING_FORMATS.get(str(node.get("format")), "String")), nullable=False)
        texts = list(dict.fromkeys(v for v in values if v is not None))
        if not all(isinstance(v, str) for v in texts) or not texts:
            self.note(join(at, "enum"), "An enum of strings holds other values.", "It is JSON.")
            return TypeRef(JSON)
        key = _key(at, False)
        if key not in self.shapes:
            scope = names.Scope()
            pairs = tuple((scope.take(names.enum_name(text)), text) for text in texts)
            self.shapes[key] = EnumShape(key, hint, pairs, _text(node, "description"))
        return TypeRef(Named(key), nullable=None in values)

    def _read_object(self, node: Mapping[str, Any], at: str, hint: str, *, is_input: bool, depth: int) -> TypeRef:
        key = _key(at, is_input)
        if key in self.shapes:
            return TypeRef(Named(key), nullable=False)
        properties = node.get("properties")
        if not isinstance(properties, Mapping):
            if properties is not None:
                self.note(join(at, "properties"), "properties is not an object.", "It is JSON.")
            return TypeRef(JSON, nullable=False)
        hidden = "readOnly" if is_input else "writeOnly"
        shown = {
            k: v
            for k, v in properties.items()
            if isinstance(k, str) and not (isinstance(v, Mapping) and v.get(hidden) is True)
        }
        if not shown:
            return TypeRef(JSON, nullable=False)
        if node.get("additionalProperties") not in (None, False):
            self.note(at, "Properties that are not listed cannot be selected.", "List those that clients need.")
        wanted = f"{hint}Input" if is_input and not hint.endswith("Input") else hint
        # Entered before its fields are read: a field that leads back here finds it.
        self.shapes[key] = ObjectShape(key, wanted, (), is_input, _text(node, "description"))
        required = node.get("required")
        needed = {r for r in required if isinstance(r, str)} if isinstance(required, list) else set()
        scope = names.Scope()
        fields = []
        # Legal names first, so that `a-b` never takes the place of a real `aB`; the order of the document stays.
        taken = {k: scope.take(k) for k in shown if names.is_legal(k)}
        for source, raw in shown.items():
            name = taken.get(source) or scope.take(names.field_name(source))
            inner = f"{hint}{names.type_name(source)}"
            ref = self.read(raw, join(at, "properties", source), inner, is_input=is_input, depth=depth + 1)
            has_default = isinstance(raw, Mapping) and "default" in raw
            optional = source not in needed or (is_input and has_default)
            fields.append(Field(name, source, TypeRef(ref.type, ref.nullable or optional), describe(raw),
                                deprecation(raw) if not is_input or ref.nullable or optional else ""))  # fmt: skip
        self.shapes[key] = ObjectShape(key, wanted, tuple(fields), is_input, _text(node, "description"))
        return TypeRef(Named(key), nullable=False)


def describe(node: Any) -> str:
    """Return the description, with the default that the service applies when the value is left out."""
    if not isinstance(node, Mapping):
        return ""
    text = _text(node, "description")
    default = node.get("default")
    if default is None or isinstance(default, (dict, list)):
        return text
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{text}\n\nDefault: {shown[:100]}.".strip()


def deprecation(node: Any) -> str:
    if not isinstance(node, Mapping) or node.get("deprecated") is not True:
        return ""
    reason = node.get("x-deprecated-reason")
    return reason if isinstance(reason, str) and reason else "Deprecated by its service."


def _text(node: Mapping[str, Any], key: str) -> str:
    value = node.get(key)
    return value.strip() if isinstance(value, str) else ""


def _key(at: str, is_input: bool) -> str:
    return f"{'in' if is_input else 'out'}:{at}"


def _is_null(branch: Any) -> bool:
    if not isinstance(branch, Mapping):
        return False
    return branch.get("type") in ("null", ["null"]) or branch.get("enum") == [None] or branch.get("const", 0) is None


def _has_shape(node: Mapping[str, Any]) -> bool:
    return any(k in node for k in ("type", "properties", "items", "enum", "additionalProperties"))


def _is_typed(node: Any) -> bool:
    return isinstance(node, Mapping) and bool(node.keys() - _ANNOTATIONS)


def _only_requires(branches: list[Any]) -> bool:
    return all(isinstance(b, Mapping) and b.keys() <= {"required", *_ANNOTATIONS} for b in branches)


def _implied(node: Mapping[str, Any]) -> str | None:
    """Return the type that keywords imply when `type` is missing."""
    if "properties" in node or "additionalProperties" in node:
        return "object"
    if "items" in node:
        return "array"
    values = node.get("enum") if isinstance(node.get("enum"), list) else None
    if values is None and isinstance(node.get("const"), str):
        return "string"
    if values and all(isinstance(v, str) or v is None for v in values):
        return "string"
    return None


def _is_big(node: Mapping[str, Any]) -> bool:
    if node.get("format") in ("int64", "uint64", "uint32"):
        return True
    bounds = [node.get(k) for k in ("minimum", "maximum")]
    return any(isinstance(b, (int, float)) and not isinstance(b, bool) and not -_INT32 <= b < _INT32 for b in bounds)
