"""A text for a regular expression: the shortest of its first choices. For the part of the language that people use in schemas:
characters, classes, `\\d \\w \\s .`, groups, choices, repeats and anchors.
"""

from __future__ import annotations

import re

_CLASSES = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "t": "\t", "n": "\n", "r": "\r"}
_REPEAT = re.compile(r"\{(\d{1,4})(?:,\d{0,4})?\}")
_MAX = 4096


class Unreadable(ValueError):
    """The expression uses what is not made here."""


def text_for(pattern: str, least: int = 0) -> str | None:
    """Return a text that the expression finds something in; None when none is found. least: characters that it has at least."""
    try:
        reader = _Reader(pattern)
        text = reader.choice()
        if reader.at != len(pattern):
            return None
        if len(text) < least:
            text = _Reader(pattern, least - len(text)).choice()
        return text if len(text) <= _MAX and re.search(pattern, text) else None
    except (Unreadable, IndexError, re.error):
        return None


class _Reader:
    """Reads an expression from left to right. more: rounds that the first repeat without end makes beyond its least."""

    def __init__(self, pattern: str, more: int = 0) -> None:
        self._pattern = pattern
        self._more = more
        self.at = 0

    def choice(self) -> str:
        """Read up to the end or a closing bracket; return a text for the first side."""
        text = self._sequence()
        while self._next() == "|":
            self.at += 1
            self._sequence()
        return text

    def _sequence(self) -> str:
        made = ""
        while self._next() not in ("", "|", ")"):
            made += self._repeated(self._atom())
            if len(made) > _MAX:
                raise Unreadable
        return made

    def _next(self) -> str:
        return self._pattern[self.at : self.at + 1]

    def _take(self) -> str:
        self.at += 1
        return self._pattern[self.at - 1]

    def _atom(self) -> str:
        char = self._take()
        if char == "(":
            if self._next() == "?":
                self.at += 1
                if self._take() != ":":
                    raise Unreadable
            text = self.choice()
            if self._take() != ")":
                raise Unreadable
            return text
        if char == "[":
            return self._set()
        if char == "\\":
            return self._escaped(self._take())
        if char in "^$":
            return ""
        if char in "*+?{":
            raise Unreadable
        return "a" if char == "." else char

    def _escaped(self, char: str) -> str:
        if char in _CLASSES:
            return _CLASSES[char]
        if char in "bB":
            return ""
        if char.isalnum():
            raise Unreadable
        return char

    def _set(self) -> str:
        inverse = self._next() == "^"
        start = self.at - 1
        if inverse:
            self.at += 1
        first = ""
        while self._next() != "]" or not first:
            char = self._take()
            first = first or (self._escaped(self._take()) if char == "\\" else char)
        self.at += 1
        if not inverse:
            return first
        members = re.compile(self._pattern[start : self.at])
        return next((each for each in "a0-A _" if members.fullmatch(each)), "\u00e9")

    def _repeated(self, text: str) -> str:
        char = self._next()
        least, endless = 1, False
        if char in ("*", "+", "?"):
            self.at += 1
            least, endless = (1 if char == "+" else 0), char != "?"
        else:
            match = _REPEAT.match(self._pattern, self.at)
            if match is None:
                return text
            self.at = match.end()
            least, endless = int(match[1]), match[0].endswith(",}")
        if self._next() and self._next() in "?+":
            self.at += 1
        if endless and self._more and text:
            least, self._more = least + self._more, 0
        if least * len(text) > _MAX:
            raise Unreadable
        return text * least
