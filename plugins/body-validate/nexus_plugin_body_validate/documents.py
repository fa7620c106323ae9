"""JSON texts that strangers send, read once and unambiguously."""

from __future__ import annotations

import json
from typing import Any


class NotJson(ValueError):
    """The text is no JSON that is accepted; the message says why, without quoting it."""


def parse(body: bytes, max_depth: int) -> Any:
    """Return the value. Raises `NotJson`.

    Stricter than `json.loads`: a name that stands twice in an object, NaN and infinities are refused, because the service behind
    might read them differently from what was checked (RFC 8259 sections 4 and 6).
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise NotJson(f"The body is not UTF-8 at byte {error.start}.") from error
    except json.JSONDecodeError as error:
        raise NotJson(f"The body is not JSON: {error.msg} at line {error.lineno} column {error.colno}.") from error
    except RecursionError as error:
        raise NotJson(f"The body is nested deeper than {max_depth} levels.") from error
    except NotJson:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise NotJson("The body holds a number that is too long.") from error
    if is_deeper(value, max_depth):
        raise NotJson(f"The body is nested deeper than {max_depth} levels.")
    return value


def is_deeper(value: Any, limit: int) -> bool:
    """Return whether a value has more levels of arrays and objects than the limit."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("The body names one member of an object twice.")
    return found


def _no_constant(name: str) -> Any:
    raise NotJson(f"The body holds {name}, which JSON does not have.")
