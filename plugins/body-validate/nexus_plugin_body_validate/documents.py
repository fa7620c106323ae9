"""JSON texts that strangers send, read once and unambiguously."""

from __future__ import annotations

import json
from typing import Any


class NotJson(ValueError):
    """The text is no JSON that is accepted; the message says why, without quoting it."""


def parse(body: bytes, max_depth: int, max_values: int) -> Any:
    """Return the value. max_values: members and items of all its arrays and objects together. Raises `NotJson`.

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
    _check_size(value, max_depth, max_values)
    return value


def _check_size(value: Any, max_depth: int, max_values: int) -> None:
    """Raise `NotJson` for a value with too many levels of arrays and objects, or with too much in them."""
    level, count = [value], 0
    for _ in range(max_depth + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        count += sum(map(len, level))
        if count > max_values:
            raise NotJson(f"The body has more than {max_values} values.")
        if not level:
            return
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    raise NotJson(f"The body is nested deeper than {max_depth} levels.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("The body names one member of an object twice.")
    return found


def _no_constant(name: str) -> Any:
    raise NotJson(f"The body holds {name}, which JSON does not have.")
