"""What a client asks for: `Prefer` and `Accept`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MAX_PARTS = 32


def preferences(values: Iterable[str]) -> dict[str, str]:
    """Return the preferences of all Prefer headers, names lower-case, of each the first. Source: RFC 7240 section 2."""
    found: dict[str, str] = {}
    for value in values:
        for part in value.split(",")[:_MAX_PARTS]:
            name, _, text = part.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), text.strip().strip('"'))
    return found


def choose(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the media type that the client likes best, the first of equals; None when it takes none. Source: RFC 9110 section 12.5.1."""
    if accept is None or not accept.strip():
        return offered[0]
    ranges: dict[str, float] = {}
    for part in accept.split(",")[:_MAX_PARTS]:
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        ranges[name] = next((_quality(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    best, found = 0.0, None
    for each in offered:
        plain = each.partition(";")[0].strip().lower()
        for name in (plain, f"{plain.partition('/')[0]}/*", "*/*"):
            if name in ranges:
                if ranges[name] > best:
                    best, found = ranges[name], each
                break
    return found


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
