"""HTTPRoutes to routes: matches, and what a rule says of timeouts and retries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nexus_core.model import gateway_api
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Retry, Route, Rule
from nexus_core.translate.durations import parse_duration
from nexus_core.translate.route_builders import RouteBuilder, Surroundings
from nexus_core.translate.route_matches import MatchBuilder
from nexus_core.translate.route_rules import RuleBuilder
from nexus_core.translate.wishes import Wishes

RETRIED_CODES = range(400, 600)
"""As the Gateway API's own rule for `retry.codes`."""
MAX_ATTEMPTS = 10
"""As a NexusPolicy's retry.attempts: no client waits for more."""

Rules = tuple[Rule, ...]


class RequestRouteBuilder(RouteBuilder[Route, Rules]):
    """Builds one route of requests: an HTTPRoute's or a GRPCRoute's."""

    def __init__(self, around: Surroundings, resource: Resource) -> None:
        super().__init__(around, resource)
        self.rule_builder = RuleBuilder(self.ref, self.backends, around.asking, self.problems)
        self.match_builder = MatchBuilder(self.ref, self.problems)

    def item(self, listeners: tuple[str, ...], names: tuple[str, ...], rules: Rules) -> Route:
        """Return the route."""
        return Route(self.route_id, str(self.ref), listeners, names, rules, self.resource.created_at)

    def last(self) -> tuple[Route, ...]:
        """Return the last good version."""
        return self.around.last.routes_of(self.ref)

    def place(self) -> dict[ObjectRef, Route]:
        """Return where routes of requests are gathered."""
        return self.around.found.routes

    def upstreams_of(self, item: Route) -> Iterable[str]:
        """Return the upstreams of all rules' backends."""
        return (backend.upstream for rule in item.rules for backend in rule.backends)


class HttpBuilder(RequestRouteBuilder):
    """Builds one HTTPRoute."""

    spec = gateway_api.HTTPRouteSpec

    def rules(self, spec: Any) -> Rules:
        """Return the rules."""
        self.rule_builder.names(spec.rules)
        return tuple(self._rule(index, rule) for index, rule in enumerate(spec.rules))

    def _rule(self, index: int, rule: gateway_api.RouteRule) -> Rule:
        path = f".spec.rules[{index}]"
        rule_id = f"{self.route_id}/{index}"
        matches = tuple(
            self.match_builder.build(match, f"{path}.matches[{number}]")
            for number, match in enumerate(rule.matches or (gateway_api.RouteMatch(),))
        )
        built = self.rule_builder.build(rule_id, path, matches, rule)
        if rule.timeouts is not None:
            self._timeouts(rule_id, rule.timeouts, f"{path}.timeouts")
        if rule.retry is not None:
            self._retry(rule_id, rule.retry, f"{path}.retry")
        return built

    def _timeouts(self, rule_id: str, timeouts: gateway_api.RouteTimeouts, path: str) -> None:
        found: list[float | None] = []
        for name, text in (("request", timeouts.request), ("backendRequest", timeouts.backend_request)):
            found.append(self._duration(text, f"{path}.{name}") if text is not None else None)
        request_s, try_s = found
        if request_s and try_s and try_s > request_s:
            what = f"backendRequest ({try_s:g} s) is longer than request ({request_s:g} s)."
            self.refuse(f"{path}.backendRequest", "InvalidSpec", what, "Make it shorter than request.")
        said = {("timeouts", "request_s"): request_s, ("timeouts", "try_s"): try_s}
        self.wishes.setdefault(rule_id, {}).update({k: v for k, v in said.items() if v is not None})

    def _duration(self, text: str, path: str) -> float | None:
        seconds = parse_duration(text)
        if seconds is None:
            self.refuse(
                path, "InvalidSpec", f'"{text[:40]}" is no duration.', 'Write it like "10s", "500ms" or "1m30s".'
            )
        return seconds

    def _retry(self, rule_id: str, retry: gateway_api.RouteRetry, path: str) -> None:
        """Gateway API: what never reached a backend, or got no answer, is repeated whenever `retry` is there.

        So many repeats are an order, not a share of the traffic: they are within the upstream's budget whatever it is, unless a
        NexusPolicy on the route or its Gateway says one.
        """
        outcomes: set[str] = {"connect-failure", "reset", "timeout"}
        for index, code in enumerate(retry.codes):
            if code in RETRIED_CODES:
                outcomes.add(str(code))
            else:
                what = f"{code} is no status of an error."
                self.refuse(f"{path}.codes[{index}]", "UnsupportedValue", what, "Name statuses from 400 to 599.")
        said: Wishes = {("retry", "on"): tuple(sorted(outcomes))}
        attempts = Retry().attempts
        if retry.attempts is not None:
            said["retry", "attempts"] = attempts = min(retry.attempts, MAX_ATTEMPTS)
            if retry.attempts > MAX_ATTEMPTS:
                what = f"Nexus repeats a request {MAX_ATTEMPTS} times at most, and {retry.attempts} are asked for."
                self.refuse(f"{path}.attempts", "FieldsNotImplemented", what, f"Write {MAX_ATTEMPTS} or fewer.")
        said["retry", "budget_ratio"] = float(attempts)
        if retry.backoff is not None:
            seconds = self._duration(retry.backoff, f"{path}.backoff")
            if seconds is not None:
                said["retry", "backoff_s"] = seconds
        self.wishes.setdefault(rule_id, {}).update(said)
