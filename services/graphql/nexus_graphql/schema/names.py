"""Turns any text into a legal GraphQL name, always the same one, and keeps names of one scope apart.

GraphQL names match `[_A-Za-z][_0-9A-Za-z]*`; those that start with `__` belong to introspection (spec 2.1.9, 4.2).
"""

from __future__ import annotations

import re
import unicodedata

LONGEST = 120
"""Characters; longer names come from generated documents and only make errors unreadable."""

_WORD = re.compile(r"[A-Za-z0-9]+|_+")
_LEGAL = re.compile(r"[_A-Za-z][_0-9A-Za-z]*\Z")


def is_legal(name: str) -> bool:
    return bool(_LEGAL.match(name)) and not name.startswith("__") and len(name) <= LONGEST


def field_name(text: str, default: str = "field") -> str:
    """Return `text` itself when legal, else its words joined in lowerCamelCase: `first-name` → `firstName`."""
    if text.startswith("__"):
        text = "_" + text.lstrip("_")
    if is_legal(text):
        return text
    words = _words(text)
    return _finish("".join([*(_small(w) for w in words[:1]), *(_capital(w) for w in words[1:])]), default)


def type_name(text: str, default: str = "Type") -> str:
    """Return `text` with a capital first letter, its words joined in CamelCase: `order line` → `OrderLine`."""
    return _finish("".join(_capital(w) for w in _words(text)), default)


def enum_name(text: str) -> str:
    """Return a name for an enum value: unchanged when legal; `in-transit` → `in_transit`, `-price` → `minus_price`
    (as sort orders are often written), empty → `EMPTY`.
    """
    if text in ("true", "false", "null"):
        return text.upper()
    if is_legal(text):
        return text
    if text[:1] == "-" and text[1:2].isalnum():
        text = f"minus {text[1:]}"
    return _finish("_".join(w for w in _words(text) if w.strip("_")) if text else "EMPTY", "VALUE")


class Scope:
    """Gives names out once each: the second `name` becomes `name_2`. Deterministic if asked in a fixed order."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def take(self, name: str) -> str:
        # Counting goes on where it stopped: thousands of properties that want one name must not cost their square.
        found, number = name, self._next.get(name, 2)
        while found in self._taken:
            found, number = f"{name}_{number}", number + 1
        self._taken.add(found)
        self._next[name] = number
        return found


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return _WORD.findall(plain)


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def _small(word: str) -> str:
    return word.lower() if word.isupper() else word[:1].lower() + word[1:]


def _finish(name: str, default: str) -> str:
    if not name.strip("_"):
        name = default
    name = name[:LONGEST]
    if name[0].isdigit():
        name = f"_{name}"
    return "_" + name.lstrip("_") if name.startswith("__") else name
