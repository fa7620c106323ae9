"""Parameters of an operation: taken from path, query, headers and cookies, read as their schema's type, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus

from nexus_sdk.plugin import PluginConfigError

from .documents import NotJson, parse
from .faults import Fault
from .schemas import Document, Schema

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?")
_SEPARATORS = {"form": ",", "simple": ",", "spaceDelimited": " ", "pipeDelimited": "|"}
_STYLES = {"path": ("simple",), "header": ("simple",), "cookie": ("form",),
           "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject")}  # fmt: skip
_IGNORED = frozenset({"accept", "content-type", "authorization"})
"""Header parameters that OpenAPI ignores."""
_DEPTH, _VALUES = 16, 1000


def pairs_of(query: str) -> list[tuple[str, str]]:
    """Return a query's names and values, decoded; what is no UTF-8 stays visible as U+FFFD."""
    return [
        (unquote_plus(name), unquote_plus(value))
        for name, _, value in (part.partition("=") for part in query.split("&") if part)
    ]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. kinds: JSON types that its schema allows, empty for any. items: kinds of an array's items.

    members: kinds of an object's members by name. as_json: its value is a JSON text.
    """

    name: str
    place: str
    required: bool
    style: str
    explode: bool
    schema: Schema
    kinds: frozenset[str]
    items: frozenset[str]
    members: Mapping[str, frozenset[str]]
    as_json: bool = False

    def faults(self, texts: Sequence[str], pairs: Iterable[tuple[str, str]], limit: int) -> list[Fault]:
        """Return what is wrong. texts: its values as sent, decoded. pairs: all of the query, of which a deepObject takes some."""
        if self.style == "deepObject":
            value: Any = {
                name[len(self.name) + 1 : -1]: text
                for name, text in pairs
                if name.startswith(f"{self.name}[") and name.endswith("]")
            }
            if not value:
                return self._missing()
            value = {name: read(text, self.members.get(name, frozenset())) for name, text in value.items()}
        elif not texts:
            return self._missing()
        elif self.as_json:
            try:
                value = parse(texts[0].encode("utf-8", "replace"), _DEPTH, _VALUES)
            except NotJson as error:
                return [self._fault(str(error).replace("The body", "The value"))]
        elif "array" in self.kinds:
            separated = texts if self.explode and self.place in ("query", "cookie") else self._split(texts[0])
            value = [read(text, self.items) for text in separated]
        elif len(texts) > 1:
            return [self._fault("must be given once")]
        else:
            value = read(texts[0], self.kinds)
        return [
            self._fault(fault.detail if fault.pointer == "#" else f"{fault.pointer[1:]} {fault.detail}")
            for fault in self.schema.faults(value, limit)
        ]

    def _split(self, text: str) -> list[str]:
        separator = _SEPARATORS[self.style]
        parts = text.split(separator)
        return [part.strip() for part in parts] if self.place == "header" else parts

    def _missing(self) -> list[Fault]:
        return [self._fault("is required")] if self.required else []

    def _fault(self, detail: str) -> Fault:
        return Fault(detail, place=self.place, name=self.name)


def read(text: str, kinds: frozenset[str]) -> Any:
    """Return a text as one of the JSON types, the text itself when it looks like none of them; the schema then says so."""
    if "integer" in kinds and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in kinds and _NUMBER.fullmatch(text):
        return float(text) if not _INTEGER.fullmatch(text) else int(text)
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    if "null" in kinds and text == "":
        return None
    return text


def compile_parameter(document: Document, node: Mapping[str, Any], where: str) -> Parameter | None:
    """Return a parameter, None for one that OpenAPI ignores. Raises PluginConfigError."""
    node = document.resolve(node)
    place, name = node.get("in"), node.get("name")
    if place not in _STYLES or not isinstance(name, str):
        raise PluginConfigError(f"{where}: a parameter needs a name, and `in` as one of {', '.join(_STYLES)}.")
    if place == "header":
        name = name.lower()
        if name in _IGNORED:
            return None
    as_json = isinstance(node.get("content"), dict)
    if as_json:
        media: Any = next(iter(node["content"].values()), {})
        schema = media.get("schema", {}) if isinstance(media, dict) else {}
    else:
        schema = node.get("schema", {})
    style = str(node.get("style", _STYLES[place][0]))
    if style not in _STYLES[place]:
        raise PluginConfigError(
            f"{where}: style {style!r} of {place} parameter {name!r} is not supported; use {' or '.join(_STYLES[place])}."
        )
    resolved = document.resolve(schema) if isinstance(schema, dict) else {}
    kinds = kinds_of(document, schema)
    if "object" in kinds and "string" not in kinds and style != "deepObject" and not as_json:
        raise PluginConfigError(
            f"{where}: {place} parameter {name!r} is an object; only `style: deepObject` and `content: application/json` are supported."
        )
    members = {
        str(each): kinds_of(document, inner) for each, inner in (resolved.get("properties") or {}).items()
    }  # fmt: skip
    return Parameter(
        name, place, bool(node.get("required", place == "path")), style, bool(node.get("explode", style == "form")),
        document.compile(schema, where), kinds, kinds_of(document, resolved.get("items", {})), members, as_json,
    )  # fmt: skip


def kinds_of(document: Document, schema: Any, depth: int = 0) -> frozenset[str]:
    """Return the JSON types that a schema speaks of, also in its branches; empty when it speaks of none."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return frozenset()
    schema = document.resolve(schema)
    named = schema.get("type", [])
    kinds = {named} if isinstance(named, str) else set(map(str, named))
    if schema.get("nullable") is True:
        kinds.add("null")
    for key in ("allOf", "anyOf", "oneOf"):
        for branch in schema.get(key, ()):
            kinds |= kinds_of(document, branch, depth + 1)
    return frozenset(kinds)


def cookies_of(header: str) -> list[tuple[str, str]]:
    """Return names and values of a Cookie header. Source: RFC 6265 section 4.2.1."""
    return [
        (name.strip(), unquote(value.strip()))
        for name, _, value in (part.partition("=") for part in header.split(";"))
        if name.strip()
    ]
