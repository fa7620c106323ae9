"""Formats of texts and numbers that are checked: those of JSON Schema with one clear rule, and OpenAPI's numbers."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from jsonschema import FormatChecker

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(
    r"(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_EMAIL = re.compile(r"[^\s@\"]{1,64}@[^\s@.]{1,63}(?:\.[^\s@.]{1,63}){0,16}")
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def _date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))


def _date_time(text: str) -> bool:
    """Source: RFC 3339 section 5.6."""
    return len(text) > 11 and text[10] in "Tt" and _date(text[:10]) and _TIME.fullmatch(text[11:]) is not None


def _byte(text: str) -> bool:
    base64.b64decode(text, validate=True)
    return True


_TEXTS: dict[str, Callable[[str], object]] = {
    "date": _date,
    "date-time": _date_time,
    "time": _TIME.fullmatch,
    "email": _EMAIL.fullmatch,
    "hostname": _HOST.fullmatch,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": lambda text: urlsplit(text).scheme and not re.search(r"[\s<>\"{}|\\^`]", text),
    "uuid": lambda text: _UUID.fullmatch(text) and UUID(text),
    "byte": _byte,
}
_NUMBERS = {"int32": 31, "int64": 63}

CHECKER = FormatChecker(formats=())
"""Formats that it does not know are not checked, as JSON Schema has it."""


def _text_rule(rule: Callable[[str], object]) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, str) or bool(rule(value))


def _number_rule(bits: int) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, int | float) or -(2**bits) <= value < 2**bits


for _name, _rule in _TEXTS.items():
    CHECKER.checks(_name, raises=(ValueError, binascii.Error))(_text_rule(_rule))
for _name, _bits in _NUMBERS.items():
    CHECKER.checks(_name)(_number_rule(_bits))
