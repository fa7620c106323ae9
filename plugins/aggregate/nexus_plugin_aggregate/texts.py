"""Texts with expressions in braces, filled in with values of the request and of calls that were made before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import jmespath
from jmespath.exceptions import JMESPathError
from nexus_sdk.plugin import PluginConfigError

_LEFT_ONLY = frozenset(
    {"subexpression", "projection", "filter_projection", "value_projection", "pipe", "index_expression"}
)
"""Parts of which only the left side looks at the whole; the right side looks at what the left one found."""
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MAX_VALUE = 4096


class Unfit(ValueError):
    """A value is missing or cannot stand where it is wanted; the message says which expression, not which value."""


class Expression:
    """One JMESPath expression. roots: names of the scope that it starts from."""

    def __init__(self, text: str, where: str) -> None:
        """Raises PluginConfigError."""
        try:
            compiled = jmespath.compile(text)
        except (JMESPathError, RecursionError) as error:
            first = str(error).partition("\n")[0]
            raise PluginConfigError(f"{where}: {text[:200]!r} is no JMESPath expression: {first}") from error
        self.text = text
        self.roots = frozenset(_roots(compiled.parsed))
        self._search: Callable[[Any], Any] = compiled.search

    def value(self, scope: Mapping[str, Any]) -> Any:
        """Return what it finds, None for nothing. Raises `Unfit`."""
        try:
            return self._search(scope)
        except (JMESPathError, ValueError, TypeError, ZeroDivisionError, OverflowError, RecursionError) as error:
            raise Unfit(f"the expression {self.text[:100]!r} does not fit ({type(error).__name__})") from error

    def text_of(self, scope: Mapping[str, Any]) -> str | None:
        """Return the value as text, None for null. Raises `Unfit` for arrays, objects, and what is too long or has control characters."""
        value = self.value(scope)
        if value is None or isinstance(value, str):
            text = value
        elif isinstance(value, bool | int | float):
            text = json.dumps(value)
        else:
            raise Unfit(f"the expression {self.text[:100]!r} gives {type(value).__name__}, not a text")
        if text is not None and (_UNSENDABLE.search(text) or len(text) > _MAX_VALUE):
            raise Unfit(f"the expression {self.text[:100]!r} gives a text that cannot be sent")
        return text


class Text:
    """A text with `{expression}`s in it. roots: of all of them."""

    def __init__(self, template: str, where: str) -> None:
        """Raises PluginConfigError."""
        parts = _BRACES.split(template)
        if any("{" in part or "}" in part for part in parts[::2]):
            raise PluginConfigError(f"{where}: a brace is not closed in {template[:200]!r}.")
        self.fixed = parts[::2]
        self._expressions = [Expression(part, where) for part in parts[1::2]]
        self.roots = frozenset(root for expression in self._expressions for root in expression.roots)

    def fill(self, scope: Mapping[str, Any]) -> str | None:
        """Return the text, None where a value is missing. Raises `Unfit`."""
        made = [self.fixed[0]]
        for expression, fixed in zip(self._expressions, self.fixed[1:], strict=True):
            value = expression.text_of(scope)
            if value is None:
                return None
            made += (value, fixed)
        return "".join(made)

    def fill_path(self, scope: Mapping[str, Any]) -> str:
        """Return the text with values percent-encoded, so that none adds a segment or a query. Raises `Unfit`, also for a missing one."""
        made = [self.fixed[0]]
        for expression, fixed in zip(self._expressions, self.fixed[1:], strict=True):
            value = expression.text_of(scope)
            if not value or value in (".", ".."):
                raise Unfit(f"the expression {expression.text[:100]!r} gives nothing that can stand in a path")
            made += (quote(value, safe=""), fixed)
        return "".join(made)


def _roots(node: Mapping[str, Any]) -> set[str]:
    if node["type"] == "field":
        return {node["value"]}
    children = node.get("children", ())
    if node["type"] in _LEFT_ONLY:
        children = children[:1]
    return {root for child in children if isinstance(child, dict) for root in _roots(child)}
