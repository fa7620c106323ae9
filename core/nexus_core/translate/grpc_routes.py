"""GRPCRoutes to routes: a gRPC call is a POST to `/<service>/<method>`."""

from __future__ import annotations

import re
from typing import Any

from nexus_core import regexes
from nexus_core.model import gateway_api
from nexus_core.snapshot import HeaderMatch, Match
from nexus_core.translate.http_routes import RequestRouteBuilder, Rules

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,1024}")
"""Of a service or method; protobuf allows less (identifiers and dots)."""
_ANY = "[^/]+"


class GrpcBuilder(RequestRouteBuilder):
    """Builds one GRPCRoute."""

    spec = gateway_api.GRPCRouteSpec

    def rules(self, spec: Any) -> Rules:
        """Return the rules."""
        self.rule_builder.names(spec.rules)
        found = []
        for index, rule in enumerate(spec.rules):
            path = f".spec.rules[{index}]"
            matches = tuple(
                self._match(match, f"{path}.matches[{number}]")
                for number, match in enumerate(rule.matches or (gateway_api.GRPCRouteMatch(),))
            )
            found.append(self.rule_builder.build(f"{self.route_id}/{index}", path, matches, rule))
        return tuple(found)

    def _match(self, match: gateway_api.GRPCRouteMatch, path: str) -> Match:
        headers = self.match_builder.headers(match.headers, path)
        said = match.method
        if said is None:
            return Match("/", "prefix", "POST", headers)
        here = f"{path}.method"
        service, method = said.service or "", said.method or ""
        if not service and not method:
            self.refuse(here, "InvalidSpec", "The match names neither a service nor a method.", "Name one of the two.")
        if said.type == "RegularExpression":
            return self._pattern(service, method, headers, here)
        if said.type != "Exact":
            what = f'Nexus does not implement method matches of type "{said.type[:40]}".'
            self.refuse(f"{here}.type", "UnsupportedValue", what, "Use Exact or RegularExpression.")
        for name, value in (("service", service), ("method", method)):
            if value and not _NAME.fullmatch(value):
                what = f'"{value[:80]}" is no name of a {name}.'
                self.refuse(f"{here}.{name}", "InvalidSpec", what, "Write it as in the .proto file, without slashes.")
        if not service:
            return Match(f"/{_ANY}/{re.escape(method)}", "regex", "POST", headers)
        if not method:
            return Match(f"/{service}", "prefix", "POST", headers)
        return Match(f"/{service}/{method}", "exact", "POST", headers)

    def _pattern(self, service: str, method: str, headers: tuple[HeaderMatch, ...], path: str) -> Match:
        for name, value in (("service", service), ("method", method)):
            if value and (fault := regexes.fault_of(value)):
                fix = "Write it in the dialect of Python's re, and so that a text can be read in few ways."
                self.refuse(f"{path}.{name}", "InvalidRegex", f'The expression "{value[:80]}" {fault}.', fix)
        parts = [f"(?:{value})" if value else _ANY for value in (service, method)]
        whole = f"/{parts[0]}/{parts[1]}"
        if not any(p.reason == "InvalidRegex" and p.path.startswith(path) for p in self.problems) and (
            fault := regexes.fault_of(whole)
        ):
            fix = "Write service and method so that both stand together, as in the expression shown."
            self.refuse(path, "InvalidRegex", f'The expression "{whole[:80]}" {fault}.', fix)
        return Match(whole, "regex", "POST", headers)
