"""Regular expressions that run on what strangers send: of route matches and of plugins, and which ones may.

The dialect is Python's `re`, which backtracks: an expression that can read one text in very many ways takes time that
grows with all of them. Three shapes do that, and are refused before they reach a gateway:

- a repeat whose body is or holds a repeat, with nothing between two rounds to tell them apart: `(a+)*`, `(\\d+,?)*`;
- a repeated choice of which two sides can begin alike: `(\\w|\\d)*`;
- more than two unbounded repeats in a row that can take each other's characters: `.*a.*b.*`; nor so many bounded ones that
  the ways to share a text among them multiply beyond `MAX_WAYS`: `a?a?a?…`.

The test is cheap and errs on the safe side: some expressions that would do no harm are refused too. With at most two such
repeats the time grows with the square of the text at worst, and the gateway bounds the text. Repeats with a small
bound multiply that by what they allow, which `MAX_WAYS` keeps small.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 1024
MANY = 32
"""Repeats of up to so many rounds count as bounded."""
MAX_IN_A_ROW = 2
MAX_WAYS = 1 << 16
"""In which repeats in a row may share a text among them, an unbounded one counted as `UNBOUNDED_WAYS`: the worst of what
passes takes about a second with the longest text, and what people write some milliseconds."""
UNBOUNDED_WAYS = 64

_parser: Any = importlib.import_module("re._parser")
_ALPHABET = "".join(map(chr, range(0x180))) + "\u4e00"
"""Characters by which sets are compared; what lies beyond differs in no expression that a route needs."""
_ALL = frozenset(_ALPHABET)
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_SINGLE = ("LITERAL", "NOT_LITERAL", "IN", "ANY")


class _Refused(Exception):
    """The text says why, to follow "The expression …"."""


@functools.lru_cache(maxsize=4096)
def fault_of(expression: str) -> str:
    """Return what is wrong with an expression, as what follows "The expression …"; empty when nothing is."""
    if len(expression) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    try:
        re.compile(expression)
        parsed = _parser.parse(expression)
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        at = getattr(error, "pos", None)
        where = f" at character {at + 1}" if isinstance(at, int) else ""
        return f"is none{where}: {getattr(error, 'msg', None) or error}"
    try:
        _check(parsed)
    except _Refused as error:
        return str(error)
    except RecursionError:
        return "is nested too deeply"
    return ""


@dataclass(frozen=True, slots=True)
class _Part:
    """One thing of a sequence. chars: what it can be made of. least, most: how often, -1 for no end; equal when it is always as long."""

    chars: frozenset[str]
    least: int
    most: int

    @property
    def unbounded(self) -> bool:
        return self.most < 0 or self.most > MANY

    @property
    def ways(self) -> int:
        """How many lengths it can have, as `MAX_WAYS` counts them."""
        return UNBOUNDED_WAYS if self.unbounded else self.most - self.least + 1


def _check(nodes: Iterable[Any]) -> None:
    """Raise _Refused for one of the three shapes anywhere below."""
    nodes = list(nodes)
    for op, value in nodes:
        name = str(op)
        if name in ("GROUPREF", "GROUPREF_EXISTS", "GROUPREF_IGNORE"):
            raise _Refused("refers back to a group, which can take very long to match")
        for inner in _below(name, value):
            _check(inner)
        if name in _REPEATS and _rounds(value[1]) > MAX_IN_A_ROW:
            _check_body(list(value[2]))
    _check_row([part for node in nodes for part in _parts(node)])


def _check_body(body: list[Any]) -> None:
    """Refuse a repeat whose rounds cannot be told apart: from a part of varying length one can get to the same or
    another such part that takes its characters, this round or the next, without passing a part that takes none of them.
    """
    for choice in _choices(body):
        sides = [_first(list(side)) for side in choice]
        for index, side in enumerate(sides):
            if any(side & other for other in sides[index + 1 :]) or sum(map(_may_be_empty, choice)) > 1:
                raise _Refused("repeats a choice whose sides can begin alike, which can take very long to match")
    parts = [part for node in body for part in _parts(node)]
    for index, part in enumerate(parts):
        if part.least == part.most:
            continue
        for other in (*parts[index + 1 :], *parts[: index + 1]):
            if other.least > 0 and not other.chars & part.chars:
                break
            if other.least != other.most and other.chars & part.chars:
                raise _Refused("has a repeat inside a repeat, which can take very long to match")


def _check_row(parts: list[_Part]) -> None:
    """Refuse more than two unbounded repeats that can take each other's characters, and too many bounded ones."""
    row: list[_Part] = []
    for part in parts:
        alike = [each for each in row if each.chars & part.chars]
        if part.least > 0:
            # What must be there and takes none of their characters tells what came before from what follows. Something that
            # may be left out does not: `a*b*a*` is `a*a*` for a text without a b.
            row = alike
        if part.least == part.most:
            continue
        row = [*row, part]
        alike = [*alike, part]
        if sum(each.unbounded for each in alike) > MAX_IN_A_ROW:
            raise _Refused("has more than two open repeats in a row that overlap, which can take very long to match")
        if math.prod(each.ways for each in alike) > MAX_WAYS:
            raise _Refused("has too many repeats in a row that overlap, which can take very long to match")


def _parts(node: Any) -> Iterator[_Part]:
    """Flatten groups: what a node adds to the sequence it stands in."""
    op, value = node
    name = str(op)
    if name in _SINGLE:
        yield _Part(_chars(node), 1, 1)
    elif name in _REPEATS:
        least, most, body = value
        inner = [part for item in body for part in _parts(item)]
        chars = frozenset[str]().union(*(part.chars for part in inner))
        if _rounds(most) == MAX_IN_A_ROW and any(part.unbounded for part in inner):
            # `(a+){2}` is `a+a+`. Of more rounds `_check_body` makes sure that they can be told apart: then it is one.
            for part in inner:
                yield part if least else _Part(part.chars, 0, part.most)
            yield from inner
        elif _rounds(most) == 1:
            for part in inner:
                yield part if least else _Part(part.chars, 0, part.most)
        else:
            alike = all(part.least == part.most for part in inner)
            if not inner or (alike and least == most):
                yield _Part(chars, min(int(least), 1), min(int(least), 1))
            else:
                yield _Part(chars, min(int(least), 1), -1 if _rounds(most) > MANY else int(most))
    elif name == "SUBPATTERN":
        for inner in value[-1]:
            yield from _parts(inner)
    elif name == "ATOMIC_GROUP":
        for inner in value:
            yield from _parts(inner)
    elif name == "BRANCH":
        sides = [[part for inner in side for part in _parts(inner)] for side in value[1]]
        chars = frozenset[str]().union(*(part.chars for side in sides for part in side))
        unbounded = max(sum(part.unbounded for part in side) for side in sides)
        least = min(1, *(sum(part.least for part in side) for side in sides))
        # One side is taken, so the worst of them counts. Which side it is, their first characters say; how long, they may not.
        alike = all(part.least == part.most for side in sides for part in side)
        yield _Part(chars, least, -1 if unbounded else 1 if alike else 2)
        for _ in range(1, unbounded):
            yield _Part(chars, 0, -1)


def _choices(nodes: list[Any]) -> Iterator[list[Any]]:
    for op, value in nodes:
        name = str(op)
        if name == "BRANCH":
            yield value[1]
        for inner in _below(name, value):
            yield from _choices(list(inner))


def _first(nodes: list[Any]) -> frozenset[str]:
    """What a sequence can begin with."""
    found: frozenset[str] = frozenset()
    for node in nodes:
        for part in _parts(node):
            found |= part.chars
            if part.least > 0:
                return found
    return found


def _may_be_empty(nodes: Iterable[Any]) -> bool:
    return not any(part.least for node in nodes for part in _parts(node))


def _below(name: str, value: Any) -> Iterator[Any]:
    if name in _REPEATS:
        yield value[2]
    elif name == "SUBPATTERN":
        yield value[-1]
    elif name == "BRANCH":
        yield from value[1]
    elif name == "ATOMIC_GROUP":
        yield value
    elif name in ("ASSERT", "ASSERT_NOT"):
        yield value[1]


def _chars(node: Any) -> frozenset[str]:
    op, value = node
    name = str(op)
    if name == "LITERAL":
        char = chr(value)
        return frozenset({char, char.lower(), char.upper()}) if char in _ALL else _ALL
    if name == "NOT_LITERAL":
        return _ALL - {chr(value)}
    if name == "ANY":
        return _ALL
    found: frozenset[str] = frozenset()
    negated = beyond = False
    for item, inner in value:
        kind = str(item)
        if kind == "NEGATE":
            negated = True
        elif kind in ("LITERAL", "RANGE"):
            first, last = (inner, inner) if kind == "LITERAL" else inner
            found |= {char for char in _ALPHABET if first <= ord(char) <= last}
            if last > ord(_ALPHABET[-2]):
                beyond = True
        else:
            found |= {char for char in _ALPHABET if _CATEGORIES[str(inner)].match(char)}
    if negated:
        return _ALL - found
    # Flags are not looked at: either case may be meant.
    return _ALL if beyond else found | {each for char in found for each in (char.lower(), char.upper())} & _ALL


_CATEGORIES = {
    f"CATEGORY_{name}": re.compile(escape)
    for name, escape in {
        "DIGIT": r"\d",
        "NOT_DIGIT": r"\D",
        "SPACE": r"\s",
        "NOT_SPACE": r"\S",
        "WORD": r"\w",
        "NOT_WORD": r"\W",
    }.items()
}


def _rounds(most: Any) -> float:
    """How often a repeat goes round at most."""
    return math.inf if str(most) == "MAXREPEAT" else int(most)
