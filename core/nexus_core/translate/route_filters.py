"""Filters of HTTPRoutes and GRPCRoutes to the Snapshot's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from nexus_core.model import gateway_api
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Cors, Filter, HeaderModifier, Mirror, Redirect, UrlRewrite
from nexus_core.translate.paths import without_trailing_slash

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}")
STATUSES: Mapping[int, Literal[301, 302, 303, 307, 308]] = {301: 301, 302: 302, 303: 303, 307: 307, 308: 308}
"""Redirects that are served; a table, so that the type of a status is exact."""
SETTINGS: Mapping[str, str] = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "URLRewrite": "url_rewrite",
    "RequestRedirect": "request_redirect",
    "RequestMirror": "request_mirror",
    "CORS": "cors",
    "ExternalAuth": "external_auth",
    "ExtensionRef": "extension_ref",
}
"""Type → attribute of its setting."""
BLOCKING = frozenset({"ExternalAuth", "ExtensionRef"})
"""Filters that are known and not carried out. They must not be skipped (Gateway API, HTTPRouteFilter): their requests get 500."""
SUPPORTED: Mapping[str, frozenset[str]] = {
    "HTTPRoute": frozenset(SETTINGS),
    "GRPCRoute": frozenset({"RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"}),
}
"""Types by kind of route."""
RULES_ALONE = frozenset({"RequestMirror", "CORS"})
"""Filters that act before a backend is chosen: on a backendRef they stand only where it is the rule's only one."""
REPEATED = frozenset({"RequestMirror", "ExtensionRef"})
NAMES = {"URLRewrite": "urlRewrite", "CORS": "cors"}
"""Settings whose name is not their type's with a small first letter."""

_ORIGIN = re.compile(r"https?://(\*|(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(:[0-9]{1,5})?")
_METHOD = re.compile(r"\*|[A-Z]{1,32}")
_PATH = re.compile(r"(?:/[!-\"$->@-~]*)?")


class FilterBuilder:
    """Builds the filters of one rule or backend of `ref`; problems go into `problems`."""

    def __init__(
        self,
        ref: ObjectRef,
        problems: list[Problem],
        *,
        all_prefixes: bool,
        resolve: Callable[[gateway_api.MirrorBackendRef, str], str],
    ) -> None:
        """resolve: gives the upstream's id of a reference at a path, or empty (and a problem) for one that leads nowhere."""
        self._ref = ref
        self._resolve = resolve
        self._problems = problems
        self._all_prefixes = all_prefixes
        self.blocked = False
        """Whether a filter was met that is not carried out and must not be skipped."""

    def build(
        self, filters: Sequence[gateway_api.RouteFilter], path: str, *, of_backend: bool = False
    ) -> tuple[Filter, ...]:
        """Return the filters in their order, but CORS first: a preflight is answered whatever the others do.

        path: of the list, for problems. of_backend: they are a backendRef's.
        """
        seen: set[str] = set()
        built: list[Filter] = []
        for index, item in enumerate(filters):
            here = f"{path}[{index}]"
            if of_backend and item.type in RULES_ALONE:
                what = f"{item.type} stands on one of several backendRefs; Nexus carries it out for whole rules."
                self._refuse(f"{here}.type", "UnsupportedValue", what, "Move it to the rule's filters.")
                continue
            if item.type in seen and item.type not in REPEATED:
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
        return tuple(sorted(built, key=lambda each: not isinstance(each, Cors)))

    def _one(self, item: gateway_api.RouteFilter, path: str) -> Filter | None:
        supported = SUPPORTED[self._ref.kind]
        if item.type not in supported:
            what = f'Nexus does not implement the filter "{item.type[:80]}" of a {self._ref.kind}.'
            fix = f"Remove it; supported: {', '.join(sorted(supported - BLOCKING))}."
            self._refuse(f"{path}.type", "UnsupportedValue", what, fix)
            return None
        fields = {kind: getattr(item, attribute) for kind, attribute in SETTINGS.items()}
        value = fields[item.type]
        name = NAMES.get(item.type, item.type[0].lower() + item.type[1:])
        extra = sorted(kind for kind, other in fields.items() if other is not None and kind != item.type)
        if value is None and not extra and item.unread:
            return None  # its setting is misspelt, and refused as a field that nobody knows
        if value is None or extra:
            what = (
                f"A filter of type {item.type} has {'no ' + name if value is None else 'the settings of ' + extra[0]}."
            )
            self._refuse(path, "InvalidSpec", what, f"Set {name}, and no other settings.")
            return None
        if item.type in BLOCKING:
            self._block(item.type, f"{path}.{name}")
            return None
        if isinstance(value, gateway_api.HeaderFilter):
            return self._headers(value, "request" if item.type.startswith("Request") else "response", f"{path}.{name}")
        if isinstance(value, gateway_api.URLRewriteFilter):
            kind, target = self._path(value.path, f"{path}.{name}.path")
            return UrlRewrite(value.hostname.lower(), kind, target)
        if isinstance(value, gateway_api.MirrorFilter):
            return self._mirror(value, f"{path}.{name}")
        if isinstance(value, gateway_api.CORSFilter):
            return self._cors(value, f"{path}.{name}")
        return self._redirect(value, f"{path}.{name}")

    def _block(self, kind: str, path: str) -> None:
        self.blocked = True
        what = f"Nexus does not carry out {kind}, and it must not be skipped: what it stands for is answered with 500."
        fix = "Remove the filter; a NexusPlugin on the route can do the like."
        self._refuse(path, "FieldsNotImplemented", what, fix)
        if kind == "ExtensionRef":
            what = "The filter refers to a kind of object that Nexus does not know."
            self._refuse(f"{path}.kind", "InvalidKind", what, fix)

    def _mirror(self, value: gateway_api.MirrorFilter, path: str) -> Mirror | None:
        ratio = 1.0 if value.percent is None else value.percent / 100
        if value.fraction is not None:
            ratio = value.fraction.numerator / value.fraction.denominator
            if value.percent is not None:
                what = "A mirror has both percent and fraction."
                self._refuse(path, "InvalidSpec", what, "Remove one of the two.")
            if ratio > 1:
                what = "The fraction is more than the whole."
                self._refuse(f"{path}.fraction", "InvalidSpec", what, "Make numerator no larger than denominator.")
        upstream = self._resolve(value.backend_ref, f"{path}.backendRef")
        return Mirror(upstream, ratio) if upstream else None

    def _cors(self, value: gateway_api.CORSFilter, path: str) -> Cors:
        origins = tuple(dict.fromkeys(_origin(origin) for origin in value.allow_origins))
        for index, origin in enumerate(value.allow_origins):
            if origin != "*" and not _ORIGIN.fullmatch(_origin(origin)):
                what = f'Nexus does not match origins by "{origin[:80]}".'
                fix = 'Write scheme://host, scheme://*.host or "*".'
                self._refuse(f"{path}.allowOrigins[{index}]", "UnsupportedValue", what, fix)
        for index, method in enumerate(value.allow_methods):
            if not _METHOD.fullmatch(method):
                what = f'"{method[:40]}" is no method.'
                self._refuse(f"{path}.allowMethods[{index}]", "InvalidSpec", what, "Write it in capitals, or *.")
        for name, names in (("allowHeaders", value.allow_headers), ("exposeHeaders", value.expose_headers)):
            for index, header in enumerate(names):
                if not HEADER_NAME.fullmatch(header):
                    fix = "Use letters, digits and '-'."
                    self._refuse(f"{path}.{name}[{index}]", "InvalidSpec", f'"{header[:80]}" is no header name.', fix)
        return Cors(
            origins,
            tuple(dict.fromkeys(value.allow_methods)) or Cors().methods,
            tuple(dict.fromkeys(name.lower() for name in value.allow_headers)),
            tuple(dict.fromkeys(name.lower() for name in value.expose_headers)),
            value.allow_credentials,
            value.max_age,
        )

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
        if value.unread:
            return "none", ""  # likewise
        what = (
            f'A path is replaced by ReplaceFullPath or ReplacePrefixMatch with their setting, not "{value.type}" alone.'
        )
        self._refuse(
            path, "InvalidSpec", what, "Set type: ReplacePrefixMatch and replacePrefixMatch, or their FullPath twins."
        )
        return "none", ""

    def _refuse(self, path: str, reason: str, what: str, fix: str) -> None:
        self._problems.append(Problem(self._ref, path, reason, what, fix))


def hoisted(
    refs: Sequence[gateway_api.BackendRef],
) -> tuple[tuple[gateway_api.BackendRef, ...], tuple[gateway_api.RouteFilter, ...]]:
    """Return the backendRefs, and filters that were taken from the only one of them: there they mean the same on the rule."""
    if len(refs) != 1 or not any(item.type in RULES_ALONE for item in refs[0].filters):
        return tuple(refs), ()
    return (refs[0].model_copy(update={"filters": ()}),), refs[0].filters


def _origin(text: str) -> str:
    """Return an origin as browsers send it: lower-case, without the scheme's own port."""
    origin = text.lower()
    if origin.startswith("https://"):
        return origin.removesuffix(":443")
    return origin.removesuffix(":80") if origin.startswith("http://") else origin


def _first_of_each(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    # Gateway API: of names that are equal but for case, the first entry counts.
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name, value)
    return tuple(found.items())
