"""An operation and its arguments → the HTTP request that asks it. Pure.

Serialisation follows OpenAPI 3.1 "Style Values" (path and header: simple; query: form, spaceDelimited, pipeDelimited,
deepObject; `json` for parameters with content).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from nexus_graphql.schema import Argument, Operation

_HOLE = re.compile(r"\{([^{}]*)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _NotFinite(Exception):
    """A number is NaN or infinite."""


class Unsendable(ValueError):
    """A value cannot travel where its parameter is. The text names the argument and says why."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """target: path and query, percent-encoded. body: None for none. headers: lower-case names."""

    service: str
    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for requests that ask the same."""
        return (self.service, self.method, self.target, tuple(sorted(self.headers.items())), self.body)


def build(operation: Operation, arguments: Mapping[str, Any]) -> UpstreamRequest:
    """Return the request. arguments: by GraphQL name; None counts as left out, except inside a body.

    Raises Unsendable for a path with empty or dot segments, control characters in a header, text that is no Unicode
    (lone surrogates, which JSON can carry and UTF-8 cannot), and numbers that are not finite.
    """
    try:
        return _build(operation, arguments)
    except UnicodeEncodeError as err:
        raise Unsendable(f"An argument of {operation.method} {operation.path} holds text that is not Unicode.") from err
    except _NotFinite as err:
        raise Unsendable(
            f"An argument of {operation.method} {operation.path} holds a number that JSON has not."
        ) from err


def _build(operation: Operation, arguments: Mapping[str, Any]) -> UpstreamRequest:
    path_values: dict[str, str] = {}
    query: list[str] = []
    headers = {"accept": "text/*, */*;q=0.1" if operation.answer == "text" else "application/json"}
    body: bytes | None = None
    for argument in operation.arguments:
        if argument.name not in arguments:
            continue
        value = arguments[argument.name]
        if argument.location == "body":
            body, headers["content-type"] = _body(argument, value)
        elif value is None:
            continue
        elif argument.location == "path":
            path_values[argument.source] = _path_value(argument, value)
        elif argument.location == "query":
            query.extend(f"{quote(k, safe='[]')}={quote(v, safe='')}" for k, v in _query_pairs(argument, value))
        else:
            text = _simple(argument, value)
            if _CONTROL.search(text):
                raise Unsendable(
                    f"The argument {argument.name!r} travels in a header: it may not hold control characters."
                )
            text.encode()  # raises here, not in the client
            headers[argument.source.lower()] = text
    path, start = "", 0
    for hole in _HOLE.finditer(operation.path):
        path += _literal(operation.path[start : hole.start()]) + path_values[hole.group(1)]
        start = hole.end()
    path += _literal(operation.path[start:])
    if not {".", ".."}.isdisjoint(path.split("/")):
        # A dot segment would ask another path than the one that was opened to GraphQL (RFC 3986, 5.2.4).
        raise Unsendable(f"The path {path[:200]!r} of the document has a dot segment. Write it without.")
    target = f"{path}?{'&'.join(query)}" if query else path
    return UpstreamRequest(operation.service, operation.method, target, headers, body)


def _literal(text: str) -> str:
    return quote(text, safe="/:@!$&'()*+,;=-._~")


def _path_value(argument: Argument, value: Any) -> str:
    text = _simple(argument, value)
    if text in ("", ".", ".."):
        raise Unsendable(f"The argument {argument.name!r} is part of a path: it may not be {text!r}.")
    return quote(text, safe="")


def _simple(argument: Argument, value: Any) -> str:
    if argument.style == "json":
        return _dump(value)
    if isinstance(value, dict):
        pairs = [(k, _text(v)) for k, v in value.items() if v is not None]
        return ",".join(f"{k}={v}" if argument.explode else f"{k},{v}" for k, v in pairs)
    if isinstance(value, list):
        return ",".join(_text(v) for v in value if v is not None)
    return _text(value)


def _query_pairs(argument: Argument, value: Any) -> Iterator[tuple[str, str]]:
    name, style = argument.source, argument.style
    if style == "json":
        yield name, _dump(value)
    elif isinstance(value, dict):
        pairs = [(k, v) for k, v in value.items() if v is not None]
        if style == "deepObject":
            yield from ((f"{name}[{k}]", _text(v)) for k, v in pairs)
        elif argument.explode:
            yield from ((k, _text(v)) for k, v in pairs)
        else:
            yield name, ",".join(f"{k},{_text(v)}" for k, v in pairs)
    elif isinstance(value, list):
        texts = [_text(v) for v in value if v is not None]
        if argument.explode and style == "form":
            yield from ((name, t) for t in texts)
        else:
            yield name, {"spaceDelimited": " ", "pipeDelimited": "|"}.get(style, ",").join(texts)
    else:
        yield name, _text(value)


def _body(argument: Argument, value: Any) -> tuple[bytes, str]:
    if not argument.form:
        return _dump(value).encode(), "application/json"
    fields = value if isinstance(value, dict) else {}
    flat = [(k, item) for k, v in fields.items() for item in (v if isinstance(v, list) else [v]) if item is not None]
    text = "&".join(f"{quote(k, safe='')}={quote(_text(v), safe='')}" for k, v in flat)
    return text.encode(), "application/x-www-form-urlencoded"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else _dump(value)


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as err:
        raise _NotFinite from err  # NaN or infinity: Python reads them out of `1e999`
