"""Expressions that texts must not match, or must; and what is taken out of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from nexus_sdk.plugin import PluginConfigError, pattern_fault

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u206a-\u206f\ufe00-\ufe0f\ufeff]"
)

_WINDOW, _OVERLAP = 2048, 512
"""Characters that an expression sees at once, and how many of them again with the next ones: a match of so many is always found."""


def compiled(patterns: Iterable[str], where: str) -> list[re.Pattern[str]]:
    """Return the expressions, without regard to case. Raises PluginConfigError for one that can take very long."""
    made = []
    for index, pattern in enumerate(patterns):
        fault = pattern_fault(pattern)
        if fault:
            raise PluginConfigError(f"{where}[{index}]: The expression {pattern[:100]!r} {fault}.")
        made.append(re.compile(pattern, re.IGNORECASE))
    return made


def plain(text: str) -> str:
    """Return a text as it is judged: compatible letters are one, invisible ones are gone. `ｉgn\u200bore` reads `ignore`."""
    return text if text.isascii() else _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))


def windows(text: str) -> list[str]:
    """Return a text in pieces that overlap. An expression such as `a.*b` takes time that grows with the square of what it sees: of many
    short pieces, with the text alone.
    """
    return [text[at : at + _WINDOW] for at in range(0, max(len(text) - _OVERLAP, 1), _WINDOW - _OVERLAP)]


class Rules:
    """What texts may be. deny: none may match. allow: one of them has to, if there are any."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.deny = compiled(config.get("deny", ()), f"{where}.deny")
        self._allow = compiled(config.get("allow", ()), f"{where}.allow")
        redact = config.get("redact", ())
        patterns = compiled([each["pattern"] for each in redact], f"{where}.redact")
        self._redact = [
            (pattern, str(each.get("with", "[redacted]"))) for pattern, each in zip(patterns, redact, strict=True)
        ]

    @property
    def redacts(self) -> bool:
        """Whether texts are changed."""
        return bool(self._redact)

    def refusal(self, text: str) -> str:
        """Return why a text is refused, empty when it is not. The reason does not quote it, nor the expression."""
        pieces = windows(plain(text))
        if any(pattern.search(piece) for pattern in self.deny for piece in pieces):
            return "It has something that is not allowed."
        if self._allow and not any(pattern.search(piece) for pattern in self._allow for piece in pieces):
            return "It has nothing of what is allowed."
        return ""

    def redacted(self, text: str) -> str:
        """Return the text without what is taken out."""
        for pattern, replacement in self._redact:
            # A function: in a text, `\\1` would be a group of the pattern.
            text = pattern.sub(lambda _, replacement=replacement: replacement, text)  # type: ignore[misc]
        return text
