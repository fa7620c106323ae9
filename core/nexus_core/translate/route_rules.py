"""Rules of HTTPRoutes and GRPCRoutes: filters and backends, which both have alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nexus_core.model import gateway_api
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Cors, Match, Persistence, Redirect, Rule, WeightedBackend
from nexus_core.translate.asking import Asking
from nexus_core.translate.backends import Backends
from nexus_core.translate.durations import parse_duration
from nexus_core.translate.route_filters import FilterBuilder, hoisted


class RuleBuilder:
    """Builds the rules of one route."""

    def __init__(self, route: ObjectRef, backends: Backends, asking: Asking, problems: list[Problem]) -> None:
        self._route, self._backends, self._asking, self._problems = route, backends, asking, problems

    def build(
        self,
        rule_id: str,
        path: str,
        matches: tuple[Match, ...],
        rule: gateway_api.RouteRule | gateway_api.GRPCRouteRule,
    ) -> Rule:
        """Return the rule. A rule with a filter that is known and not carried out answers 500, and is told."""
        builder = FilterBuilder(
            self._route,
            self._problems,
            all_prefixes=all(m.path_kind == "prefix" for m in matches),
            resolve=self._backends.find,
        )
        refs, lifted = hoisted(rule.backend_refs)
        built = builder.build(rule.filters, f"{path}.filters")
        if lifted:
            both = (*built, *builder.build(lifted, f"{path}.backendRefs[0].filters"))
            built = tuple(sorted(both, key=lambda each: not isinstance(each, Cors)))
            if sum(isinstance(f, Cors) for f in built) > 1:
                what = "CORS stands on the rule and on its backendRef."
                self._refuse(f"{path}.backendRefs[0].filters", "IncompatibleFilters", what, "Put them into one.")
        blocked = builder.blocked
        if refs and any(isinstance(f, Redirect) for f in built):
            what = "A rule that redirects sends nothing to a backend."
            self._refuse(f"{path}.backendRefs", "IncompatibleFilters", what, "Remove backendRefs or RequestRedirect.")
        backends = []
        for number, backend in enumerate(refs):
            here = f"{path}.backendRefs[{number}]"
            upstream = self._backends.find(backend, here)
            builder.blocked = False
            filters = builder.build(backend.filters, f"{here}.filters", of_backend=True)
            if builder.blocked:
                upstream, filters = "", ()
            backends.append(WeightedBackend(upstream, backend.weight, filters))
        if rule.session_persistence is not None:
            backends = self._persist(rule.session_persistence, backends, f"{path}.sessionPersistence")
        return Rule(rule_id, matches) if blocked else Rule(rule_id, matches, built, tuple(backends))

    def names(self, rules: Iterable[gateway_api.RouteRule | gateway_api.GRPCRouteRule]) -> None:
        """Look for names that two rules have."""
        seen: set[str] = set()
        for index, rule in enumerate(rules):
            if rule.name is not None and rule.name in seen:
                what = f'Two rules have the name "{rule.name[:80]}".'
                self._refuse(f".spec.rules[{index}].name", "InvalidSpec", what, "Give each a name of its own.")
            seen.add(rule.name or "")

    def _persist(
        self, said: gateway_api.SessionPersistence, backends: Sequence[WeightedBackend], path: str
    ) -> list[WeightedBackend]:
        if said.type not in ("Cookie", "Header"):
            what = f'Nexus does not keep sessions by "{said.type[:40]}".'
            self._refuse(f"{path}.type", "UnsupportedValue", what, "Write Cookie or Header.")
            return list(backends)
        seconds = 0.0
        if said.absolute_timeout is not None:
            parsed = parse_duration(said.absolute_timeout)
            if parsed is None:
                what = f'"{said.absolute_timeout[:40]}" is no duration.'
                self._refuse(f"{path}.absoluteTimeout", "InvalidSpec", what, 'Write it like "10s", "500ms" or "1h30m".')
            seconds = parsed or 0.0
        if said.cookie_config is not None and said.cookie_config.lifetime_type not in ("Session", "Permanent"):
            what = f'Nexus knows no cookie of lifetime "{said.cookie_config.lifetime_type[:40]}".'
            self._refuse(f"{path}.cookieConfig.lifetimeType", "UnsupportedValue", what, "Write Session or Permanent.")
        elif (
            said.type == "Cookie"
            and seconds
            and (said.cookie_config or gateway_api.CookieConfig()).lifetime_type == "Session"
        ):
            what = "The cookie outlives the browser's session, up to absoluteTimeout: Nexus says that age in it."
            self._refuse(
                f"{path}.cookieConfig.lifetimeType",
                "FieldsNotImplemented",
                what,
                "Write Permanent, which is what it is.",
            )
        if sum(1 for backend in backends if backend.weight) > 1:
            what = "A client is kept at its endpoint within each backend; by which backend it is served is drawn for every request."
            self._refuse(
                path, "FieldsNotImplemented", what, "Give the rule one backendRef, if clients must stay with one."
            )
        name = said.session_name or ("nexus-session" if said.type == "Cookie" else "x-nexus-session")
        kept = (
            Persistence("header", name.lower(), seconds)
            if said.type == "Header"
            else Persistence("cookie", name, seconds)
        )
        return [
            WeightedBackend(self._asking.sticky(b.upstream, kept) if b.upstream else "", b.weight, b.filters)
            for b in backends
        ]

    def _refuse(self, path: str, reason: str, what: str, fix: str) -> None:
        self._problems.append(Problem(self._route, path, reason, what, fix))
