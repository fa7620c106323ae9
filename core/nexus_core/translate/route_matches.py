"""Matches of an HTTPRoute's rules to the Snapshot's, and those of headers that a GRPCRoute has too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from nexus_core import regexes
from nexus_core.model import gateway_api
from nexus_core.model.services import Method
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import HeaderMatch, Match, QueryMatch
from nexus_core.translate.paths import exact, fault_of, without_trailing_slash
from nexus_core.translate.route_filters import HEADER_NAME

METHODS = frozenset(get_args(Method))
Kind = Literal["exact", "regex"]
KINDS: dict[str, Kind] = {"Exact": "exact", "RegularExpression": "regex"}


class MatchBuilder:
    """Builds the matches of `ref`; problems go into `problems`."""

    def __init__(self, ref: ObjectRef, problems: list[Problem]) -> None:
        self._ref, self._problems = ref, problems

    def build(self, match: gateway_api.RouteMatch, path: str) -> Match:
        """Return the match. path: of it, for problems."""
        if match.method and match.method not in METHODS:
            what = f'"{match.method[:40]}" is no method that a route matches.'
            self._refuse(f"{path}.method", "UnsupportedValue", what, f"Use one of {', '.join(sorted(METHODS))}.")
        queries: dict[str, QueryMatch] = {}
        for number, query in enumerate(match.query_params):
            here = f"{path}.queryParams[{number}]"
            kind = self._kind(query.type, query.value, "query parameter", here)
            if not query.name or len(query.name) > 256:
                what = (
                    "The query parameter has no name." if not query.name else "The query parameter's name is too long."
                )
                self._refuse(f"{here}.name", "InvalidSpec", what, "Write 1 to 256 characters.")
            queries.setdefault(query.name, QueryMatch(query.name, query.value, kind))
        value, path_kind = self._path(match.path, f"{path}.path")
        return Match(
            value,
            path_kind,
            match.method,
            self.headers(match.headers, path),
            tuple(found for _, found in sorted(queries.items())),
        )

    def headers(self, said: Iterable[gateway_api.HTTPHeaderMatch], path: str) -> tuple[HeaderMatch, ...]:
        """Return the headers' part of a match, sorted by name. path: of the match. Of equal names the first counts."""
        headers: dict[str, HeaderMatch] = {}
        for number, header in enumerate(said):
            here = f"{path}.headers[{number}]"
            kind = self._kind(header.type, header.value, "header", here)
            if not HEADER_NAME.fullmatch(header.name):
                what = f'"{header.name[:80]}" is no header name.'
                self._refuse(f"{here}.name", "InvalidSpec", what, "Use letters, digits and '-'.")
            name = header.name.lower()
            headers.setdefault(name, HeaderMatch(name, header.value, kind))
        return tuple(found for _, found in sorted(headers.items()))

    def _path(self, match: gateway_api.PathMatch, path: str) -> tuple[str, Literal["exact", "prefix", "regex"]]:
        if match.type == "RegularExpression":
            self._kind(match.type, match.value, "path", path)
            return match.value, "regex"
        if match.type not in ("PathPrefix", "Exact"):
            what = f'Nexus does not implement path matches of type "{match.type}".'
            self._refuse(f"{path}.type", "UnsupportedValue", what, "Use PathPrefix, Exact or RegularExpression.")
        fault = fault_of(match.value)
        if fault:
            what = f'The path "{match.value[:80]}" {fault}.'
            self._refuse(f"{path}.value", "InvalidSpec", what, "Write it as a plain path, for example /orders.")
        return (
            (exact(match.value), "exact") if match.type == "Exact" else (without_trailing_slash(match.value), "prefix")
        )

    def _kind(self, given: str, value: str, of: str, path: str) -> Kind:
        if given not in KINDS:
            what = f'Nexus does not implement {of} matches of type "{given}".'
            self._refuse(f"{path}.type", "UnsupportedValue", what, "Use Exact or RegularExpression.")
        elif given == "RegularExpression" and (fault := regexes.fault_of(value)):
            fix = "Write it in the dialect of Python's re, and so that a text can be read in few ways."
            self._refuse(f"{path}.value", "InvalidRegex", f'The expression "{value[:80]}" {fault}.', fix)
        return KINDS.get(given, "exact")

    def _refuse(self, path: str, reason: str, what: str, fix: str) -> None:
        self._problems.append(Problem(self._ref, path, reason, what, fix))
