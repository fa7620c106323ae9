"""Expressions and templates of expressions, compiled once.

A template is any JSON value. In it, `{"$": "<expression>"}` stands for what the expression finds in the body; with `default`, for
that when it finds null; with `omit: true`, for nothing at all then: the member or item is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jmespath
from jmespath import functions
from jmespath.exceptions import JMESPathError
from nexus_sdk.plugin import PluginConfigError, RequestHead

_MAX_PARTS = 10_000
_KEYS = frozenset({"$", "default", "omit"})
OMITTED: Any = object()


class Unfit(ValueError):
    """An expression does not fit the body; the message says which, and why."""


class Means(functions.Functions):  # type: ignore[misc]  # the library has no types
    """What expressions may call beside JMESPath's own functions."""

    def __init__(self, request: RequestHead, query: Mapping[str, str], status: int | None = None) -> None:
        """query: the request's, decoded. status: of the response, None in a request."""
        super().__init__()
        self._request = request
        self._query = query
        self._status = status

    @functions.signature({"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_header(self, name: str) -> str | None:
        return self._request.header(name.lower())

    @functions.signature({"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_query(self, name: str) -> str | None:
        return self._query.get(name)

    @functions.signature()  # type: ignore[untyped-decorator]
    def _func_method(self) -> str:
        return self._request.method

    @functions.signature()  # type: ignore[untyped-decorator]
    def _func_path(self) -> str:
        return self._request.path

    @functions.signature()  # type: ignore[untyped-decorator]
    def _func_status(self) -> int | None:
        return self._status

    @functions.signature({"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_lower(self, text: str) -> str:
        return text.lower()

    @functions.signature({"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_upper(self, text: str) -> str:
        return text.upper()

    @functions.signature({"types": ["string"]}, {"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_split(self, text: str, separator: str) -> list[str]:
        if not separator:
            raise Unfit("split() needs a separator.")
        return text.split(separator, _MAX_PARTS)


@dataclass(frozen=True, slots=True)
class Expression:
    """One compiled expression."""

    text: str
    find: Callable[..., Any]

    def value(self, body: Any, means: Means) -> Any:
        """Return what it finds, None for nothing. Raises `Unfit`."""
        try:
            return self.find(body, options=jmespath.Options(custom_functions=means))
        except (JMESPathError, ValueError, TypeError, ZeroDivisionError, OverflowError, RecursionError) as error:
            # The library's text quotes the value that does not fit, which may be long or private.
            raise Unfit(
                f"The expression {self.text[:200]!r} does not fit the body ({type(error).__name__})."
            ) from error


Part = Callable[[Any, Means], Any]


def compile_expression(text: str, where: str) -> Expression:
    """Return an expression. Raises PluginConfigError."""
    try:
        compiled = jmespath.compile(text)
    except (JMESPathError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise PluginConfigError(f"{where}: {text[:200]!r} is no JMESPath expression: {first}") from error
    _check_calls(compiled.parsed, where)
    return Expression(text, compiled.search)


def compile_template(node: Any, where: str) -> Part:
    """Return a function from body and means to the value that the template stands for. Raises PluginConfigError."""
    if isinstance(node, dict):
        if "$" in node:
            return _placeholder(node, where)
        members = {key: compile_template(value, f"{where}.{key}") for key, value in node.items()}
        return lambda body, means: {
            key: value for key, part in members.items() if (value := part(body, means)) is not OMITTED
        }
    if isinstance(node, list):
        items = [compile_template(value, f"{where}[{index}]") for index, value in enumerate(node)]
        return lambda body, means: [value for part in items if (value := part(body, means)) is not OMITTED]
    return lambda body, means: node


def _placeholder(node: Mapping[str, Any], where: str) -> Part:
    strange = set(node) - _KEYS
    if strange or not isinstance(node["$"], str):
        what = f"{min(strange)!r} is not known" if strange else "'$' is not a text"
        raise PluginConfigError(
            f"{where}: {what}; an expression is {{'$': text}}, with 'default' or 'omit: true' if need be."
        )
    expression = compile_expression(node["$"], f"{where}.$")
    default = OMITTED if node.get("omit") is True else node.get("default")

    def find(body: Any, means: Means) -> Any:
        value = expression.value(body, means)
        return default if value is None else value

    return find


def _check_calls(node: Mapping[str, Any], where: str) -> None:
    """Refuse functions that do not exist: the library would say so only when a body comes."""
    if node.get("type") == "function_expression" and node["value"] not in Means.FUNCTION_TABLE:
        raise PluginConfigError(f"{where}: there is no function {node['value']}().")
    for child in node.get("children", ()):
        if isinstance(child, dict):
            _check_calls(child, where)
