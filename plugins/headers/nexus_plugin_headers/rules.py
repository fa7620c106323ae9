"""One change of a message's headers, and when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from nexus_sdk.plugin import Headers, PluginConfigError

from .templates import TOKEN, Moment, Template

FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What says where a message ends and which host it is for: the gateway's, not a plugin's."""
OF_REQUESTS = frozenset(
    {
        "b3",
        "grpc-timeout",
        "traceparent",
        "tracestate",
        "uber-trace-id",
        "x-b3-flags",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-spanid",
        "x-b3-traceid",
        "x-request-timeout",
    }
)
"""A request's trace context and deadline: the gateway writes them for each attempt, whatever a plugin says."""


class When:
    """A condition; all that it names has to hold. An empty one always does."""

    __slots__ = ("_absent", "_methods", "_paths", "_present", "_statuses", "always")

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._statuses = tuple(_statuses(str(each)) for each in config.get("status", ()))
        self._methods = frozenset(str(each).upper() for each in config.get("methods", ()))
        self._paths = tuple(str(each) for each in config.get("paths", ()))
        self._present = str(config.get("present", "")).lower()
        self._absent = str(config.get("absent", "")).lower()
        self.always = not (self._statuses or self._methods or self._paths or self._present or self._absent)

    def holds(self, moment: Moment, headers: Headers) -> bool:
        """Return whether the condition holds. headers: of the message that is changed, as the rules before left them."""
        request, response = moment.request, moment.response
        if self._methods and request.method not in self._methods:
            return False
        if self._paths and not any(_covers(each, request.path) for each in self._paths):
            return False
        if self._present and not any(name == self._present for name, _ in headers):
            return False
        if self._absent and any(name == self._absent for name, _ in headers):
            return False
        return not self._statuses or (
            response is not None and any(low <= response.status <= high for low, high in self._statuses)
        )


class Rule:
    """One change. `apply` returns the headers after it, the same tuple when it changes nothing."""

    __slots__ = ("_kind", "_name", "_prefix", "_template", "_to", "_when")

    def __init__(self, config: Mapping[str, Any], where: str, values: Mapping[str, str], *, response: bool) -> None:
        self._kind = str(config["do"])
        name = str(config["name"]).lower()
        self._prefix = name.endswith("*") and self._kind == "remove"
        owned = FRAMING if response else FRAMING | OF_REQUESTS
        self._name = _named(name.removesuffix("*") if self._prefix else name, f"{where}.name", owned)
        self._to = ""
        self._template: Template | None = None
        if self._kind == "rename":
            if "to" not in config:
                raise PluginConfigError(f"{where}: `rename` needs `to`, the header's new name.")
            self._to = _named(str(config["to"]).lower(), f"{where}.to", owned)
        elif self._kind != "remove":
            if "value" not in config:
                raise PluginConfigError(f"{where}: `{self._kind}` needs a `value`.")
            self._template = Template(str(config["value"]), f"{where}.value", values, response=response)
        self._when = When(config.get("when", {}))

    def apply(self, headers: Headers, moment: Moment) -> Headers:
        """Return the headers after this change. A value that comes out empty changes nothing."""
        if not (self._when.always or self._when.holds(moment, headers)):
            return headers
        name, template = self._name, self._template
        if template is None:
            return self._move(headers)
        present = any(each == name for each, _ in headers)
        if self._kind == "default" and present:
            return headers
        value = template.fill(moment)
        if not value:
            return headers
        if self._kind == "set" and present:
            headers = tuple([pair for pair in headers if pair[0] != name])
        return (*headers, (name, value))

    def _move(self, headers: Headers) -> Headers:
        name = self._name
        if self._kind == "rename":
            if not any(each == name for each, _ in headers):
                return headers
            # The new name's own values go: what a client sends under it must not pass for what was renamed.
            return tuple(
                [(self._to, value) if each == name else (each, value) for each, value in headers if each != self._to]
            )
        if self._prefix:
            return tuple([pair for pair in headers if not pair[0].startswith(name) or pair[0] in FRAMING])
        return tuple([pair for pair in headers if pair[0] != name])


def _named(name: str, where: str, owned: Set[str]) -> str:
    if not TOKEN.fullmatch(name):
        raise PluginConfigError(f"{where}: {name!r} is no name of a header; letters, digits and - are.")
    if name in owned:
        raise PluginConfigError(f"{where}: {name} belongs to the gateway, which sets it for each message.")
    return name


def _statuses(text: str) -> tuple[int, int]:
    """Return the first and last status of `404`, `4xx` or `500-504`."""
    if text.endswith("xx"):
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _covers(pattern: str, path: str) -> bool:
    """Return whether a path is the pattern, or below one that ends in `*`."""
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
