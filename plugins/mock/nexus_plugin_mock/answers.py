"""From a document to the answers of each operation: all of them made beforehand, and checked by their schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from nexus_sdk.plugin import Headers, PluginConfigError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from .documents import Document
from .generation import Generator, NoValue

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_URI = "urn:nexus:document"
_VARIABLE = re.compile(r"\{([^{}/]{1,128})\}")
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Body:
    """What a media type answers. examples: by name, in their order; the first is the default. trouble: why there is none."""

    examples: Mapping[str, bytes]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of a document. bodies: by media type, in the document's order; empty for a response without a body."""

    headers: Headers
    bodies: Mapping[str, Body]


@dataclass(frozen=True, slots=True)
class Operation:
    """answers: by status as the document writes it."""

    name: str
    answers: Mapping[str, Answer]

    def default(self, wanted: Sequence[str] = ()) -> str | None:
        """Return the status that is answered unless another is asked for: the first successful one, else the first."""
        statuses = [*wanted, *sorted(status for status in self.answers if status[0] == "2"), *self.answers]
        return next((status for status in statuses if status in self.answers), None)

    def find(self, status: int) -> Answer | None:
        """Return the answer of a status."""
        for key in (str(status), f"{status // 100}XX", "default"):
            if key in self.answers:
                return self.answers[key]
        return None


class Answers:
    """All answers of a document."""

    def __init__(self, content: Mapping[str, Any], where: str, base_path: str | None, seed: int) -> None:
        """Raises PluginConfigError."""
        self._document = document = Document(content, where)
        self._generator = Generator(document, seed)
        self._registry: Registry[Any] = Registry().with_resource(_URI, DRAFT202012.create_resource(document.content))
        if base_path is None:
            servers = document.content.get("servers") or [{}]
            base_path = urlsplit(str(servers[0].get("url", ""))).path
        self._base = [segment for segment in base_path.split("/") if segment]
        self._paths = []
        for template, item in (document.content.get("paths") or {}).items():
            segments = [_segment(segment) for segment in template.split("/")[1:]]
            item = document.resolve(item)
            operations = {
                method: self._operation(item[method], f"{where}.paths[{template!r}].{method}")
                for method in METHODS
                if isinstance(item.get(method), dict)
            }
            self._paths.append(([text for text, _ in segments], [fixed for _, fixed in segments], operations))
        self._paths.sort(key=lambda path: [not fixed for fixed in path[1]])

    def find(self, method: str, path: str) -> tuple[Operation | None, tuple[str, ...]]:
        """Return a request's operation, and the methods of its path, none for an unknown one. path: percent-encoded."""
        segments = path.split("/")[1:]
        if segments[: len(self._base)] != self._base:
            return None, ()
        segments = [unquote(segment) for segment in segments[len(self._base) :]]
        for patterns, _, operations in self._paths:
            if len(patterns) == len(segments) and all(map(re.Pattern.fullmatch, patterns, segments)):
                found = operations.get(method.lower()) or (operations.get("get") if method == "HEAD" else None)
                return found, tuple(name.upper() for name in operations)
        return None, ()

    def _operation(self, node: Mapping[str, Any], where: str) -> Operation:
        answers = {}
        for status, response in (node.get("responses") or {}).items():
            key = str(status) if status == "default" else str(status).upper()
            if not re.fullmatch(r"default|[2-5](\d\d|XX)", key):
                continue
            response = self._document.resolve(response)
            bodies = {
                media_type: self._body(media, media_type, f"{where}.responses.{status}")
                for media_type, media in (response.get("content") or {}).items()
            }
            answers[key] = Answer(self._headers(response.get("headers") or {}), bodies)
        return Operation(str(node.get("operationId", "")), answers)

    def _body(self, media: Any, media_type: str, where: str) -> Body:
        media = self._document.resolve(media)
        found: dict[str, Any] = {}
        if "example" in media:
            found["example"] = media["example"]
        # By name, for a configuration's members have no order of their own: API servers and Snapshots sort them.
        for name, example in sorted((media.get("examples") or {}).items()):
            example = self._document.resolve(example)
            if "value" in example:
                found[name] = example["value"]
        if not found:
            schema = media.get("schema", {})
            try:
                found["generated"] = self._checked(self._generator.value(schema), schema, where)
            except NoValue as error:
                return Body({}, f"{where}: {error}.")
        return Body({name: _encoded(value, media_type) for name, value in found.items()})

    def _checked(self, value: Any, schema: Any, where: str) -> Any:
        """Return a value that was made if its schema allows it. Raises `NoValue`."""
        if isinstance(schema, dict):
            schema = {"$id": _URI + ":part", **_absolute(schema)}
        try:
            Draft202012Validator.check_schema(schema)
            error = next(Draft202012Validator(schema, registry=self._registry).iter_errors(value), None)
        except SchemaError as fault:
            raise PluginConfigError(f"{where}: the schema is not valid: {fault.message[:200]}.") from fault
        if error is not None:
            raise NoValue(f"no value is found: {error.message[:200]}; give an example")
        return value

    def _headers(self, headers: Mapping[str, Any]) -> Headers:
        made = []
        for name, node in headers.items():
            node = self._document.resolve(node)
            try:
                value = (
                    node["example"]
                    if "example" in node
                    else self._generator.value(node.get("schema", {"type": "string"}))
                )
            except NoValue:
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            if (
                re.fullmatch(r"[A-Za-z0-9-]{1,128}", name)
                and not _UNSENDABLE.search(text)
                and name.lower() != "content-type"
            ):
                made.append((name.lower(), text))
        return tuple(made)


def _absolute(node: Any) -> Any:
    """Return a schema whose references name the document."""
    if isinstance(node, list):
        return [_absolute(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: f"{_URI}{value}" if key == "$ref" and isinstance(value, str) else _absolute(value)
        for key, value in node.items()
    }


def _segment(segment: str) -> tuple[re.Pattern[str], bool]:
    parts = _VARIABLE.split(segment)
    if len(parts) > 5:
        raise PluginConfigError(
            f"config.openapi.paths: {segment!r} has more than two variables, which cannot be told apart."
        )
    text = "".join(re.escape(part) if index % 2 == 0 else "(.+)" for index, part in enumerate(parts))
    return re.compile(text, re.DOTALL), len(parts) == 1


def _encoded(value: Any, media_type: str) -> bytes:
    if isinstance(value, str) and "json" not in media_type.lower():
        return value.encode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
