"""Path templates of `google.api.http`: `/v1/{name=shelves/*/books/**}:read`.

Source: google/api/http.proto, "Path template syntax": `*` is one segment, `**` any number of them at the end, `{field}` is `{field=*}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)(?:=([^{}]+))?\}")
_VERB = re.compile(r":[^/{}*]+\Z")
_ESCAPED_SLASH = re.compile(r"%2[fF]")


class NotTemplate(ValueError):
    """The text is no path template; the message says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template. order: more specific ones sort first. variables: dotted field paths, each with whether it is one segment."""

    pattern: re.Pattern[str]
    variables: tuple[tuple[str, bool], ...]
    order: tuple[tuple[int, str], ...]

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the variables of a path, decoded; None when it does not match. path: percent-encoded.

        In a variable of several segments an encoded slash stays encoded, so that it is told from one that parts segments.
        """
        match = self.pattern.fullmatch(path)
        if match is None:
            return None
        return {
            name: unquote(text) if single else "/".join(_unquoted(segment) for segment in text.split("/"))
            for (name, single), text in zip(self.variables, match.groups(), strict=True)
        }


def compile_template(text: str) -> Template:
    """Return a template. Raises `NotTemplate`."""
    if not text.startswith("/"):
        raise NotTemplate(f"{text!r} does not start with '/'")
    verb = _VERB.search(text)
    body = text[: verb.start()] if verb else text
    pattern, at = "", 0
    variables: list[tuple[str, bool]] = []
    for found in _VARIABLE.finditer(body):
        pattern += _segments(body[at : found.start()], text)
        inner = found[2] or "*"
        pattern += f"({_segments(inner, text)})"
        variables.append((found[1], inner == "*"))
        at = found.end()
    pattern += _segments(body[at:], text)
    if len({name for name, _ in variables}) != len(variables):
        raise NotTemplate(f"{text!r} names a variable twice")
    plain = _VARIABLE.sub(lambda found: found[2] or "*", body)
    if "**" in plain.split("/")[:-1]:
        raise NotTemplate(f"{text!r} has '**' before its end")
    ranks = tuple((2 if part == "**" else 1 if part == "*" else 0, part) for part in plain.split("/")[1:])
    last = (-1, verb[0]) if verb else (3, "")
    return Template(re.compile(pattern + (re.escape(verb[0]) if verb else "")), tuple(variables), (*ranks, last))


def _segments(text: str, whole: str) -> str:
    """Return the expression of a part without variables."""
    if "{" in text or "}" in text:
        raise NotTemplate(f"{whole!r} has a brace that is no variable")
    made = []
    for part in text.split("/"):
        if part == "**":
            made.append(".*")
        elif part == "*":
            made.append("[^/]+")
        elif "*" in part:
            raise NotTemplate(f"{whole!r} has '*' inside a segment")
        else:
            made.append(re.escape(part))
    return "/".join(made)


def _unquoted(segment: str) -> str:
    return "".join(
        piece if _ESCAPED_SLASH.fullmatch(piece) else unquote(piece) for piece in re.split(r"(%2[fF])", segment)
    )  # fmt: skip
