"""Values of a document that people write, checked one by one. All that is wrong is kept; what is returned is of the right type always."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Fields:
    """faults: `.<path>: what. fix`, in the order of reading. where: of each method, the path of the value."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def read_matching(self, where: str, value: Any, pattern: re.Pattern[str], example: str) -> tuple[str, ...]:
        """Return the texts of a list that a pattern takes, each once, sorted. example: of one."""
        found = []
        for number, each in self.read_list(where, value):
            if not isinstance(each, str) or len(each) > 253 or not pattern.fullmatch(each):
                self.fault(f"{where}[{number}]", f"{each!r} cannot be asked for", f"Write it like {example}.")
                continue
            found.append(each)
        return tuple(sorted(set(found)))

    def read_label(self, where: str, value: Any) -> str:
        """Return a name as Kubernetes has them; `invalid` for what is none."""
        if not isinstance(value, str) or not NAME.fullmatch(value):
            self.fault(where, f"{value!r} is no name", "Write lower-case letters, digits and hyphens, at most 63.")
            return "invalid"
        return value

    def read_range(self, where: str, value: Any, *, required: bool = False) -> str:
        """Return a version range, PEP 440; empty for what is none."""
        example = 'Write it like ">=1.1,<2"'
        if not isinstance(value, str):
            self.fault(where, f"{value!r} is no text", f"{example}, in quotes.")
            return ""
        try:
            specifiers = SpecifierSet(value)
        except InvalidSpecifier:
            self.fault(where, f'"{value}" is no version range', f"{example}.")
            return ""
        if required and not len(specifiers):
            self.fault(where, "it is empty", f"{example}.")
        return value

    def read_text(self, where: str, value: Any, most: int) -> str:
        """Return a text. most: characters."""
        if not isinstance(value, str):
            self.fault(where, f"{value!r:.80} is no text", "Write text, in quotes if need be.")
            return ""
        if len(value) > most:
            self.fault(where, f"it has {len(value)} characters", f"Write at most {most}.")
        if any(ord(char) < 32 and char not in "\n\t" for char in value):
            self.fault(where, "it has control characters", "Take them out.")
        return value

    def read_one_of(self, where: str, value: Any, allowed: tuple[str, ...]) -> Any:
        """Return the value, or the first that is allowed."""
        if value not in allowed:
            self.fault(where, f"{value!r:.80} is none of {', '.join(allowed)}", "Write one of them.")
            return allowed[0]
        return value

    def read_url(self, where: str, value: Any) -> str:
        """Return the address of a page; empty for what is none."""
        text = self.read_text(where, value, 2048)
        if not text:
            return ""
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        except ValueError:
            usable = False
        if not usable or not text.isascii() or re.search(r"[\s\"'<>\\]", text):
            self.fault(
                where, f'"{text:.200}" is no address of a page', "Write it like https://example.com/plugins/headers."
            )
            return ""
        return text

    def read_list(self, where: str, value: Any) -> list[tuple[int, Any]]:
        """Return the entries with their places; none for what is no list."""
        if not isinstance(value, list):
            self.fault(where, f"{value!r:.80} is no list", "Write `- ` before each entry.")
            return []
        if len(value) > 64:
            self.fault(where, f"it has {len(value)} entries", "Write at most 64.")
        return list(enumerate(value))

    def read_object(self, where: str, value: Any) -> Mapping[Any, Any]:
        """Return the fields; none for what is no object."""
        if not isinstance(value, dict):
            self.fault(where, f"{value!r:.80} is no object", "Write it as `field: value`.")
            return {}
        return value

    def refuse_unknown(self, where: str, found: Mapping[Any, Any], known: tuple[str, ...]) -> None:
        """Note each field that is not known, with the nearest that is."""
        for name in sorted(set(map(str, found)) - set(known)):
            near = difflib.get_close_matches(name, known, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
            self.fault(f"{where}.{name}", "is not known", fix)

    def fault(self, where: str, what: str, fix: str) -> None:
        """Note what is wrong at a place, and how to fix it."""
        self.faults.append(f"{where}: {what}. {fix}")
