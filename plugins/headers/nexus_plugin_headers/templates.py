"""Values with places in them that a request fills: `${path}`, `${header:x-tenant}`. What fills them cannot add a header.

A template is parsed once; most have no places and cost nothing per request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nexus_sdk.plugin import PluginConfigError, RequestHead, ResponseHead

MAX_VALUE = 8192
"""Characters of a value after substitution; more is cut, since most servers refuse more."""

_PLACE = re.compile(r"\$(?:\$|\{([^{}]*)\}|)")
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What would end a header, or a message, before its time: everything below space but the tab, and DEL."""
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,128}")


@dataclass(frozen=True, slots=True)
class Moment:
    """What places are filled from. response: None while the request is on its way in."""

    request: RequestHead
    response: ResponseHead | None = None


Part = Callable[[Moment], str]

_REQUEST: dict[str, Part] = {
    "client_ip": lambda moment: moment.request.client_ip,
    "host": lambda moment: moment.request.host,
    "method": lambda moment: moment.request.method,
    "path": lambda moment: moment.request.path,
    "query": lambda moment: moment.request.query,
    "route": lambda moment: moment.request.route,
}


class Template:
    """One value. fixed: the text if nothing in it depends on the request, else None."""

    __slots__ = ("_parts", "fixed")

    def __init__(self, text: str, where: str, values: Mapping[str, str], *, response: bool) -> None:
        """text: with `${name}` for a place and `$$` for a dollar sign. response: whether there is one to take values from.

        Raises PluginConfigError that names `where`, for a place that does not exist.
        """
        parts: list[str | Part] = []
        end = 0
        for match in _PLACE.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match[0] == "$$":
                parts.append("$")
            elif match[1] is None:
                raise PluginConfigError(
                    f"{where}: a lone `$` at character {match.start() + 1}; write `$$` for a dollar sign."
                )
            else:
                parts.append(_part(match[1], where, values, response=response))
        parts.append(text[end:])
        merged: list[str | Part] = []
        for part in parts:
            if isinstance(part, str) and merged and isinstance(merged[-1], str):
                merged[-1] += part
            elif part != "":
                merged.append(part)
        self._parts = tuple(merged)
        whole = "".join(part for part in merged if isinstance(part, str))
        self.fixed = clean(whole) if all(isinstance(part, str) for part in merged) else None

    def fill(self, moment: Moment) -> str:
        """Return the value for this request, without anything that could end a header."""
        if self.fixed is not None:
            return self.fixed
        return clean("".join([part if isinstance(part, str) else part(moment) for part in self._parts]))


def clean(value: str) -> str:
    """Return a value as it may stand in a header: no control characters, no space around it, bounded."""
    return _UNSAFE.sub("", value).strip(" \t")[:MAX_VALUE]


def _part(name: str, where: str, values: Mapping[str, str], *, response: bool) -> str | Part:
    if name in _REQUEST:
        return _REQUEST[name]
    if name == "status" and response:
        return lambda moment: str(moment.response.status) if moment.response is not None else ""
    kind, _, argument = name.partition(":")
    argument = argument.lower() if kind != "value" else argument
    if kind == "value" and argument in values:
        return values[argument]
    if kind == "header" and TOKEN.fullmatch(argument):
        return lambda moment: moment.request.header(argument) or ""
    if kind == "response" and response and TOKEN.fullmatch(argument):
        return lambda moment: (moment.response.header(argument) or "") if moment.response is not None else ""
    known = [*_REQUEST, "header:<name>", *(["status", "response:<name>"] if response else [])]
    known += [f"value:{each}" for each in sorted(values)] or ["value:<name of config.values>"]
    raise PluginConfigError(f"{where}: there is no `${{{name}}}` here; it may be {', '.join(known)}.")
