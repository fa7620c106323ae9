"""The scalars beside GraphQL's own. Values come from JSON and go to JSON; a wrong one is an error at its field."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any
from uuid import UUID

from graphql import GraphQLError, GraphQLScalarType

SAFE = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259 section 6)."""
_INTEGER = re.compile(r"-?[0-9]{1,40}\Z")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)


def _big_out(value: Any) -> int | str:
    number = _big_in(value)
    return number if -SAFE <= number <= SAFE else str(number)


def _big_in(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _INTEGER.match(value):
        return int(value)
    raise GraphQLError(f"BigInt cannot represent {_show(value)}: write a whole number, or a string of digits.")


def _date_time(value: Any) -> str:
    if isinstance(value, str) and _DATE_TIME.match(value):
        try:
            # Seconds of 60 are legal in RFC 3339 (leap seconds) and unknown to datetime.
            datetime.fromisoformat(value[:17] + ("59" if value[17:19] == "60" else value[17:19]) + _zone(value))
        except ValueError:
            pass
        else:
            return value
    raise GraphQLError(f"DateTime cannot represent {_show(value)}: write RFC 3339, such as 2026-01-31T12:00:00Z.")


def _zone(value: str) -> str:
    return "+00:00" if value[-1] in "zZ" else value[-6:]


def _date(value: Any) -> str:
    if isinstance(value, str) and _DATE.match(value):
        try:
            date.fromisoformat(value)
        except ValueError:
            pass
        else:
            return value
    raise GraphQLError(f"Date cannot represent {_show(value)}: write RFC 3339, such as 2026-01-31.")


def _uuid(value: Any) -> str:
    if isinstance(value, str) and len(value) == 36:
        try:
            UUID(value)
        except ValueError:
            pass
        else:
            return value
    raise GraphQLError(f"UUID cannot represent {_show(value)}: write RFC 9562, such as "
                       "123e4567-e89b-12d3-a456-426614174000.")  # fmt: skip


def _json(value: Any) -> Any:
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def build() -> dict[str, GraphQLScalarType]:
    """Return new scalar types by name; each schema has its own, because types belong to one schema."""
    table = {
        "JSON": (_json, _json, "Any JSON value: for what has no GraphQL type (free-form objects, maps, alternatives)."),
        "BigInt": (_big_out, _big_in,
                   "A whole number of any size; a JSON string beyond ±(2^53 - 1), where JSON numbers lose digits."),
        "DateTime": (_date_time, _date_time, "A point in time as in RFC 3339: 2026-01-31T12:00:00Z."),
        "Date": (_date, _date, "A calendar day as in RFC 3339: 2026-01-31."),
        "UUID": (_uuid, _uuid, "A UUID as in RFC 9562, 36 characters."),
    }  # fmt: skip
    return {
        name: GraphQLScalarType(name, coerce_output_value=out, coerce_input_value=in_, description=text)
        for name, (out, in_, text) in table.items()
    }
