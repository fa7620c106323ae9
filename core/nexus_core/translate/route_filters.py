"""Filters of an HTTPRoute to the Snapshot's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from nexus_core.model import gateway_api
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Filter, HeaderModifier, Redirect, UrlRewrite
from nexus_core.translate.paths import without_trailing_slash

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}")
STATUSES: Mapping[int, Literal[301, 302, 303, 307, 308]] = {301: 301, 302: 302, 303: 303, 307: 307, 308: 308}
"""Redirects that are served; a table, so that the type of a status is exact."""
SUPPORTED = "RequestHeaderModifier, ResponseHeaderModifier, URLRewrite, RequestRedirect"

_PATH = re.compile(r"(?:/[!-\"$->@-~]*)?")


class FilterBuilder:
    """Builds the filters of one rule or backend of `ref`; problems go into `problems`."""

    def __init__(self, ref: ObjectRef, problems: list[Problem], *, all_prefixes: bool) -> None:
        self._ref = ref
        self._problems = problems
        self._all_prefixes = all_prefixes

    def build(self, filters: Sequence[gateway_api.RouteFilter], path: str) -> tuple[Filter, ...]:
        """Return the filters in their order. path: of the list, for problems."""
        seen: set[str] = set()
        built: list[Filter] = []
        for index, item in enumerate(filters):
            here = f"{path}[{index}]"
            if item.type in seen:
                self._refuse(
                    f"{here}.type", "IncompatibleFilters", f"{item.type} is there twice.", "Put them into one."
                )
                continue
            seen.add(item.type)
            found = self._one(item, here)
            if found is not None:
                built.append(found)
        if {"URLRewrite", "RequestRedirect"} <= seen:
            what = "A redirected request is not sent on, so it cannot be rewritten."
            self._refuse(path, "IncompatibleFilters", what, "Remove URLRewrite or RequestRedirect.")
        return tuple(built)

    def _one(self, item: gateway_api.RouteFilter, path: str) -> Filter | None:
        fields = {
            "RequestHeaderModifier": item.request_header_modifier,
            "ResponseHeaderModifier": item.response_header_modifier,
            "URLRewrite": item.url_rewrite,
            "RequestRedirect": item.request_redirect,
        }
        if item.type not in fields:
            what = f'Nexus does not implement the filter "{item.type}".'
            self._refuse(f"{path}.type", "UnsupportedValue", what, f"Remove it; supported: {SUPPORTED}.")
            return None
        value = fields[item.type]
        name = (
            item.type[:3].lower() + item.type[3:]
            if item.type.startswith("URL")
            else item.type[0].lower() + item.type[1:]
        )
        extra = sorted(kind for kind, other in fields.items() if other is not None and kind != item.type)
        if value is None or extra:
            what = (
                f"A filter of type {item.type} has {'no ' + name if value is None else 'the settings of ' + extra[0]}."
            )
            self._refuse(path, "InvalidSpec", what, f"Set {name}, and no other settings.")
            return None
        if isinstance(value, gateway_api.HeaderFilter):
            return self._headers(value, "request" if item.type.startswith("Request") else "response", f"{path}.{name}")
        if isinstance(value, gateway_api.URLRewriteFilter):
            kind, target = self._path(value.path, f"{path}.{name}.path")
            return UrlRewrite(value.hostname.lower(), kind, target)
        return self._redirect(value, f"{path}.{name}")

    def _headers(
        self, value: gateway_api.HeaderFilter, on: Literal["request", "response"], path: str
    ) -> HeaderModifier:
        for what, names in (
            ("set", [h.name for h in value.set]),
            ("add", [h.name for h in value.add]),
            ("remove", list(value.remove)),
        ):
            for index, name in enumerate(names):
                if not HEADER_NAME.fullmatch(name):
                    fix = "Use letters, digits and '-'."
                    self._refuse(f"{path}.{what}[{index}]", "InvalidSpec", f'"{name[:80]}" is no header name.', fix)
        for what, headers in (("set", value.set), ("add", value.add)):
            for index, header in enumerate(headers):
                if any(c in header.value for c in "\r\n\0"):
                    text = f"The value of header {header.name} holds a line break."
                    self._refuse(f"{path}.{what}[{index}].value", "InvalidSpec", text, "Write it on one line.")
        return HeaderModifier(
            on,
            _first_of_each((h.name.lower(), h.value) for h in value.set),
            _first_of_each((h.name.lower(), h.value) for h in value.add),
            tuple(sorted({name.lower() for name in value.remove})),
        )

    def _redirect(self, value: gateway_api.RedirectFilter, path: str) -> Redirect:
        kind, target = self._path(value.path, f"{path}.path")
        scheme: Literal["", "http", "https"] = ""
        if value.scheme in ("http", "https"):
            scheme = "https" if value.scheme == "https" else "http"
        elif value.scheme:
            what = f'Nexus does not redirect to scheme "{value.scheme}".'
            self._refuse(f"{path}.scheme", "UnsupportedValue", what, "Write http or https.")
        status = STATUSES.get(value.status_code)
        if status is None:
            what = f"Status {value.status_code} is no redirect."
            self._refuse(f"{path}.statusCode", "UnsupportedValue", what, "Write 301, 302, 303, 307 or 308.")
        return Redirect(scheme, value.hostname.lower(), value.port or 0, kind, target, status or 302)

    def _path(self, value: gateway_api.PathModifier | None, path: str) -> tuple[Literal["none", "full", "prefix"], str]:
        if value is None:
            return "none", ""
        for setting, target in (
            ("replaceFullPath", value.replace_full_path),
            ("replacePrefixMatch", value.replace_prefix_match),
        ):
            if target is not None and not _PATH.fullmatch(target):
                # A line break would end the header or request line that the path is put into.
                what = f"{target[:80]!r} is no path."
                fix = "Begin it with '/', and percent-encode what is not printable ASCII, spaces, '?' and '#'."
                self._refuse(f"{path}.{setting}", "InvalidSpec", what, fix)
                return "none", ""
        if value.type == "ReplaceFullPath" and value.replace_full_path is not None:
            return "full", value.replace_full_path
        if value.type == "ReplacePrefixMatch" and value.replace_prefix_match is not None:
            if not self._all_prefixes:
                what = "ReplacePrefixMatch stands on a rule that also matches other than by path prefix."
                self._refuse(path, "InvalidSpec", what, "Match by PathPrefix only, or use ReplaceFullPath.")
            return "prefix", without_trailing_slash(value.replace_prefix_match)
        what = (
            f'A path is replaced by ReplaceFullPath or ReplacePrefixMatch with their setting, not "{value.type}" alone.'
        )
        self._refuse(
            path, "InvalidSpec", what, "Set type: ReplacePrefixMatch and replacePrefixMatch, or their FullPath twins."
        )
        return "none", ""

    def _refuse(self, path: str, reason: str, what: str, fix: str) -> None:
        self._problems.append(Problem(self._ref, path, reason, what, fix))


def _first_of_each(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    # Gateway API: of names that are equal but for case, the first entry counts.
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name, value)
    return tuple(found.items())
