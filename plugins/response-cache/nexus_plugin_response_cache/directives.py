"""What heads say about caching: Cache-Control, dates, lists. Pure. Source: RFC 9111, 5; RFC 9110, 5.6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from nexus_sdk.plugin import Headers

Directives = Mapping[str, str | None]
"""Lower-case names; None for a directive without an argument."""

MOST_S = 2**31
"""RFC 9111, 1.2.2: what is larger than a cache can count counts as this."""

_DIRECTIVE = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(?:"((?:[^"\\]|\\.)*)"|([^\s,;"]*)))?[ \t]*(?:,|$)|[^,]*(?:,|$)"""
)


def values(headers: Headers, name: str) -> str:
    """Return a header's lines as one list, empty for none. name: lower-case."""
    return ", ".join([value for each, value in headers if each == name])


def parse(text: str) -> Directives:
    """Return the directives of a Cache-Control. One that is there twice with two arguments is worth nothing: its argument is ``."""
    found: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        match = _DIRECTIVE.match(text, at)
        if match is None or match.end() == at:
            break
        at = match.end()
        if match[1] is None:
            continue
        name = match[1].lower()
        argument = match[2] if match[2] is not None else match[3]
        found[name] = argument if name not in found or found[name] == argument else ""
    return found


def seconds(directives: Directives, name: str) -> float | None:
    """Return a directive's seconds, None when it is not there. RFC 9111, 4.2.1: what cannot be read is stale, that is 0."""
    if name not in directives:
        return None
    text = directives[name] or ""
    return min(float(text), MOST_S) if text.isascii() and text.isdigit() else 0.0


def date(text: str | None) -> float | None:
    """Return a date as seconds since 1970, None for what is none."""
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, IndexError):
        return None


def names(text: str) -> tuple[str, ...]:
    """Return the members of a list of names, lower-case, each once, sorted."""
    return tuple(sorted({each.strip().lower() for each in text.split(",")} - {""}))
