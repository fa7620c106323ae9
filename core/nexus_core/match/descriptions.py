"""What a Snapshot says of one request: its way, everything that holds on it, and from which object each part comes.

As plain values, ready for JSON. What only a running gateway knows (endpoints, circuits, plugins that failed) is not here;
it adds that to the same answer. Of secrets it hides what explanations of
headers and queries would tell; filters' values are as written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

from nexus_core.match.asking import Question
from nexus_core.match.explain import explain
from nexus_core.match.router import Entry, Router
from nexus_core.snapshot import Fallback, Fault, Listener, Mirror, RateLimit, Rule, SizeLimit, Snapshot, Upstream

T = TypeVar("T")

OFF = "off"
DEFAULT = "default"
_POLICIES = (
    "balancing", "breaker", "service_breaker", "outlier", "health", "retry", "hedge", "timeouts", "concurrency", "tls",
)  # fmt: skip
_OF_RULE = frozenset({"retry", "timeouts", "hedge"})
_DEFAULTS = {each.name: each.default for each in msgspec.structs.fields(Upstream)}


def describe(
    snapshot: Snapshot,
    router: Router[T],
    question: Question,
    *,
    secret: Callable[[str], bool],
    limit: int = 50,
    listeners: Iterable[Listener] | None = None,
) -> dict[str, Any]:
    """Return where the request goes, what is done to it, and why other matches lost (`limit` of them).

    router: of this snapshot. listeners: of the port where the request comes, None for all there are.
    secret: names of headers and query parameters whose values no sentence may tell.
    Walks every match and object: for people, not for the hot path.
    Keys: request, listeners, refusal, route, source, rule, why, plugins, filters, limits, size, fault, mirrors, fallback, upstreams,
    others. route and rule are empty when nothing takes the request; refusal is the reason that clients get then.
    """
    headers = question.headers
    found = explain(
        router, question.method, question.host, question.path, headers, query=question.query, limit=limit, secret=secret
    )
    entry = router.find(question.method, question.host, question.path, headers, question.query)
    answer: dict[str, Any] = {
        "request": {
            "method": question.method,
            "host": question.host,
            "path": question.path,
            "query": question.query,
        },
        "listeners": listeners_of(snapshot.listeners if listeners is None else listeners, router, question.host, entry),
        "refusal": _refusal(router, question.host) if entry is None else "",
        "route": found.route,
        "source": entry.route.source if entry is not None else "",
        "rule": found.rule,
        "why": found.why,
        "plugins": [],
        "filters": [],
        "limits": [],
        "size": None,
        "fault": None,
        "mirrors": [],
        "fallback": None,
        "upstreams": [],
        "others": [asdict(loser) for loser in found.losers],
    }
    if entry is None:
        return answer
    rule = entry.rule
    instances = {instance.id: instance for instance in snapshot.plugins}
    upstreams = {upstream.id: upstream for upstream in snapshot.upstreams}
    answer["plugins"] = [
        {
            "id": each,
            "plugin": instances[each].release.name,
            "version": instances[each].release.version,
            "order": instances[each].order,
            "failure_policy": instances[each].failure_policy,
            "from": instances[each].source,
        }
        for each in rule.plugins
        if each in instances
    ]
    answer["filters"] = [msgspec.to_builtins(each) for each in rule.filters]
    answer.update(_bounds(rule, entry.route.source))
    weights = sum(each.weight for each in rule.backends)
    for weighted in rule.backends:
        row: dict[str, Any] = {
            "upstream": weighted.upstream,
            "weight": weighted.weight,
            "share": round(weighted.weight / weights, 4) if weights else 0.0,
            "filters": [msgspec.to_builtins(each) for each in weighted.filters],
            "found": weighted.upstream in upstreams,
        }
        upstream = upstreams.get(weighted.upstream)
        if upstream is not None:
            row["from"] = upstream.source
            row["source"] = msgspec.to_builtins(upstream.endpoints)
            row["algorithm"] = upstream.balancing.algorithm
            row["policies"] = policies_of(upstream, rule)
        answer["upstreams"].append(row)
    return answer


def _refusal(router: Router[T], host: str) -> str:
    return "MisdirectedRequest" if router.is_misdirected(host) else "RouteNotFound"


def listeners_of(
    listeners: Iterable[Listener], router: Router[T], host: str, entry: Entry[T] | None
) -> list[dict[str, Any]]:
    """Return those of the listeners that take the host, of them only those the entry's route is on."""
    allowed = router.allowed_listeners(host)

    def takes(listener: Listener) -> bool:
        return (allowed is None or listener.id in allowed) and (entry is None or listener.id in entry.listeners)

    return [
        {"id": each.id, "hostname": each.hostname, "port": each.port, "from": each.source}
        for each in listeners
        if takes(each)
    ]


def policies_of(upstream: Upstream, rule: Rule) -> dict[str, dict[str, Any]]:
    """Return the policies in effect for the rule's requests to the upstream: `{name: {value, from}}`.

    from: the rule, the object that the upstream comes from, `default`, or `off` for a policy that is not there.
    A policy that a NexusPolicy put into an upstream is the upstream's in the Snapshot: it is told by the upstream's object.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in _POLICIES:
        value = getattr(upstream, name)
        origin = upstream.source
        if name in _OF_RULE and getattr(rule, name) is not None:
            value, origin = getattr(rule, name), f"rule {rule.id}"
        elif value is None:
            origin = OFF
        elif value == _DEFAULTS[name]:
            origin = DEFAULT
        found[name] = {"value": _whole(value), "from": origin}
    return found


def _whole(value: Any) -> Any:
    """Return a policy with its defaults written out, and certificates counted rather than shown."""
    if not isinstance(value, msgspec.Struct):
        return [_whole(each) for each in value] if isinstance(value, tuple) else value
    found = {each.name: _whole(getattr(value, each.name)) for each in msgspec.structs.fields(value)}
    if found.get("ca"):
        found["ca"] = f"{found['ca'].count('-----BEGIN CERTIFICATE-----')} certificates"
    return found


def _bounds(rule: Rule, source: str) -> dict[str, Any]:
    """Return what limits, troubles and copies the rule's requests. What no policy object is named in is the route's own."""
    limits = [
        {
            **_whole(each),
            "burst": each.burst or each.requests,
            "from": each.name.rpartition("/")[0] or source,
        }
        for each in rule.filters
        if isinstance(each, RateLimit)
    ]
    sizes = [each for each in rule.filters if isinstance(each, SizeLimit)]
    return {
        "limits": limits,
        "size": {
            "request_bytes": _strictest(each.request_bytes for each in sizes),
            "response_bytes": _strictest(each.response_bytes for each in sizes),
        }
        if sizes
        else None,
        "fault": next((_whole(each) for each in rule.filters if isinstance(each, Fault)), None),
        "mirrors": [_whole(each) for each in rule.filters if isinstance(each, Mirror)],
        "fallback": next((_whole(each) for each in rule.filters if isinstance(each, Fallback)), None),
    }


def _strictest(sizes: Iterable[int]) -> int:
    return min((each for each in sizes if each), default=0)
