"""Regular expressions of users: compiled once, kept away from requests that they cannot match, and fed short texts only.

Python's `re` backtracks, and nothing bounds an expression while it runs. `MAX_TEXT_CHARS` keeps the quadratic ones in the
milliseconds; one that is exponential (`(a+)+b`) can still stop a gateway, so who may write routes must be trusted with it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants as ops  # type: ignore[attr-defined]  # the parser has no public name since 3.11
from re import _parser as parser  # type: ignore[attr-defined]

MAX_TEXT_CHARS = 4096
"""Longer paths, header values and query parameters match no expression."""


@lru_cache(maxsize=4096)
def find_compiled(pattern: str) -> re.Pattern[str] | None:
    """Return the compiled expression, or None when it is not one: such a match never holds."""
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None


def holds(pattern: re.Pattern[str] | None, text: str) -> bool:
    """Return whether the expression matches the whole text. None, and any text that is too long, do not."""
    return pattern is not None and len(text) <= MAX_TEXT_CHARS and pattern.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def literal_prefix(pattern: str) -> str:
    """Return characters that every text the expression matches begins with; empty when none are certain.

    Taken from the parsed expression, in which what all alternatives begin with stands in front of them.
    Raises `re.error` for what is no expression.
    """
    tree = parser.parse(pattern)
    if tree.state.flags & re.IGNORECASE:
        return ""
    literal = []
    for op, argument in tree:
        if op is ops.LITERAL:
            literal.append(chr(argument))
        elif op is not ops.AT or argument not in (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING):
            break
    return "".join(literal)
