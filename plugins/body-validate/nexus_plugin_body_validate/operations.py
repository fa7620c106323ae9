"""From an OpenAPI 3.0 or 3.1 document to operations that are found by method and path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from nexus_sdk.plugin import PluginConfigError

from .parameters import Parameter, compile_parameter
from .schemas import Dialect, Direction, Document, Schema

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_VARIABLE = re.compile(r"\{([^{}/]{1,128})\}")


@dataclass(frozen=True, slots=True)
class Content:
    """What a body may be. schemas: by media type or range (`application/*`), None where none is given."""

    schemas: Mapping[str, Schema | None]
    required: bool = False

    def find(self, media_type: str) -> tuple[bool, Schema | None]:
        """Return whether a media type (lower-case, without parameters) is allowed, and its schema. The most specific range wins."""
        kind, _, subtype = media_type.partition("/")
        suffix = subtype.rpartition("+")[2]
        for name in (media_type, f"{kind}/*+{suffix}", f"{kind}/*", "*/*"):
            if name in self.schemas:
                return True, self.schemas[name]
        return False, None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. responses: by status (`200`, `2XX`, `default`); body: None when it takes none."""

    name: str
    parameters: tuple[Parameter, ...]
    body: Content | None
    responses: Mapping[str, Content]

    def response(self, status: int) -> Content | None:
        """Return what a response of this status may be; None when the document does not say."""
        for key in (str(status), f"{status // 100}XX", "default"):
            if key in self.responses:
                return self.responses[key]
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """What a request's path leads to. operation: None when the path is known but not with this method; then allowed has those."""

    operation: Operation | None
    variables: Mapping[str, str]
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Path:
    segments: tuple[re.Pattern[str], ...]
    names: tuple[str, ...]
    fixed: tuple[bool, ...]
    operations: Mapping[str, Operation]


class Operations:
    """All operations of a document."""

    def __init__(self, content: Mapping[str, Any], where: str, base_path: str | None = None) -> None:
        """base_path: before all paths; None takes that of the first server. Raises PluginConfigError."""
        version = str(content.get("openapi", ""))
        if not re.match(r"3\.[01](\.|\Z)", version):
            raise PluginConfigError(
                f"{where}.openapi: {version!r} is not supported; convert the document to 3.0 or 3.1."
            )
        dialect: Dialect = "3.0" if version.startswith("3.0") else "2020-12"
        self._document = Document(content, where, dialect)
        self._where = where
        if base_path is None:
            servers = content.get("servers") or [{}]
            base_path = urlsplit(str(servers[0].get("url", ""))).path
        self._base = [segment for segment in base_path.split("/") if segment]
        self._paths: dict[int, list[_Path]] = defaultdict(list)
        for template, item in (content.get("paths") or {}).items():
            self._paths[template.count("/")].append(self._path(template, item))
        for paths in self._paths.values():
            # A fixed segment is before a variable one, from the left: `/pets/mine` before `/pets/{id}`.
            paths.sort(key=lambda path: [not fixed for fixed in path.fixed])

    def find(self, method: str, path: str) -> Found | None:
        """Return the operation of a request; None when no template matches. path: percent-encoded."""
        segments = path.split("/")[1:]
        if segments[: len(self._base)] != self._base:
            return None
        segments = [unquote(segment) for segment in segments[len(self._base) :]]
        for each in self._paths.get(len(segments), ()):
            values: list[str] = []
            for pattern, segment in zip(each.segments, segments, strict=True):
                match = pattern.fullmatch(segment)
                if match is None:
                    break
                values.extend(match.groups())
            else:
                operation = each.operations.get(method.lower())
                if operation is None and method == "HEAD":
                    operation = each.operations.get("get")
                allowed = tuple(name.upper() for name in each.operations)
                return Found(operation, dict(zip(each.names, values, strict=True)), allowed)
        return None

    def _path(self, template: str, item: Any) -> _Path:
        where = f"{self._where}.paths[{template!r}]"
        if not template.startswith("/") or not isinstance(item, dict):
            raise PluginConfigError(f"{where}: a path starts with '/' and holds operations.")
        item = self._document.resolve(item)
        patterns, fixed = [], []
        for segment in template.split("/")[1:]:
            parts = _VARIABLE.split(segment)
            if len(parts) > 5:
                raise PluginConfigError(f"{where}: more than two variables in one segment cannot be told apart.")
            text = "".join(re.escape(part) if index % 2 == 0 else "(.+)" for index, part in enumerate(parts))
            patterns.append(re.compile(text, re.DOTALL))
            fixed.append(len(parts) == 1)
        operations = {
            method: self._operation(item, item[method], f"{method.upper()} {template}", f"{where}.{method}")
            for method in METHODS
            if isinstance(item.get(method), dict)
        }
        return _Path(tuple(patterns), tuple(_VARIABLE.findall(template)), tuple(fixed), operations)

    def _operation(self, item: Mapping[str, Any], node: Mapping[str, Any], name: str, where: str) -> Operation:
        parameters: dict[tuple[str, str], Parameter] = {}
        for index, each in enumerate([*item.get("parameters", ()), *node.get("parameters", ())]):
            parameter = compile_parameter(self._document, each, f"{where}.parameters[{index}]")
            if parameter is not None:
                parameters[parameter.place, parameter.name] = parameter  # an operation's own wins over its path's
        body = node.get("requestBody")
        responses = {
            str(status).upper() if str(status) != "default" else "default": self._content(
                response, f"{where}.responses.{status}", "response"
            )
            for status, response in (node.get("responses") or {}).items()
        }
        request = self._content(body, f"{where}.requestBody", "request") if isinstance(body, dict) else None
        return Operation(name, tuple(parameters.values()), request, responses)

    def _content(self, node: Mapping[str, Any], where: str, direction: Direction) -> Content:
        node = self._document.resolve(node)
        schemas: dict[str, Schema | None] = {}
        for media_type, media in (node.get("content") or {}).items():
            has_schema = isinstance(media, dict) and "schema" in media
            schemas[media_type.partition(";")[0].strip().lower()] = (
                self._document.compile(media["schema"], f"{where}.content[{media_type!r}].schema", direction)
                if has_schema
                else None
            )
        return Content(schemas, bool(node.get("required", False)))
