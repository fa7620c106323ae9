"""What a change of configuration would do to requests that came before: the same requests through both Snapshots.

Pure, and only as good as the sample: a request that nobody sent yet is not in it. A replaced (secret) value can be found
missing, never right or wrong; requests whose way may depend on one are counted as `unsure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nexus_core.match.hosts import ANY, covers
from nexus_core.match.router import Entry, Router, parse_query
from nexus_core.snapshot import PluginInstance, RateLimit, SizeLimit, Snapshot
from nexus_core.snapshot.samples import HIDDEN, Sample

Kind = Literal[
    "no-route", "lose-auth", "lose-plugins", "lose-limits", "lose-host", "change-route", "change-rule",
    "change-upstreams", "new-route", "unsure",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "no-route", "lose-auth", "lose-plugins", "lose-limits", "lose-host", "change-route", "change-rule",
    "change-upstreams", "new-route", "unsure",
)  # fmt: skip
"""What can become of a request, the worst first.

no-route: it was taken and would be answered 404. lose-auth: a plugin that fails closed (`is_auth`) ran and would not any more.
lose-plugins: any plugin of its rule. lose-limits: a rate or size limit. lose-host: no listener or route is left for its host.
change-route: another object takes it. change-rule: another rule of the same object. change-upstreams: other upstreams, or
other shares. new-route: it was answered 404 and would be taken. unsure: see above. A request may be several of these.
"""


@dataclass(frozen=True, slots=True)
class Example:
    """One request that changes. before, after: rule ids, empty for none. detail: what of it changes."""

    method: str
    host: str
    path: str
    before: str
    after: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """requests: replayed. changed: of these, how many change in any way (`unsure` is none). counts: by kind, all of them.

    examples: by kind, in the sample's order, each request once for the same change.
    """

    requests: int
    changed: int
    counts: Mapping[Kind, int]
    examples: Mapping[Kind, tuple[Example, ...]] = field(default_factory=dict)

    def summary(self, what: str = "requests") -> str:
        """Return one line: `212 of 10,000 requests change route; 3 would lose auth; 1 would find no route`."""
        if not self.requests:
            return "There are no sampled requests to replay."
        counts = self.counts
        moved = counts["change-route"]
        parts = [f"{moved:,} of {self.requests:,} {what} {'changes' if moved == 1 else 'change'} route"]
        parts += [f"{counts[kind]:,} would {verb}" for kind, verb in _VERBS.items() if counts[kind]]
        return "; ".join(parts)


_VERBS: Mapping[Kind, str] = {
    "lose-auth": "lose auth",
    "no-route": "find no route",
    "lose-host": "find no listener or route for their host",
    "lose-plugins": "lose plugins",
    "lose-limits": "lose limits",
    "change-rule": "change rule",
    "change-upstreams": "change upstreams",
    "new-route": "find a route where there was none",
    "unsure": "depend on values that are not in the sample",
}


class _Headers(dict[str, str]):
    """Headers of a sample that tell whether a condition looked at a replaced value."""

    unsure = False

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]  # all a router calls
        found = super().get(name, default)
        if found is not None and found.startswith(HIDDEN):
            self.unsure = True
        return found


def compare(samples: Iterable[Sample], old: Snapshot, new: Snapshot, *, examples: int = 10) -> Report:
    """Return what becomes of the requests. examples: at most so many of each kind."""
    before, after = _Side(old), _Side(new)
    asked = before.asked_parameters | after.asked_parameters
    counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    found: dict[Kind, dict[tuple[str, str, str], Example]] = {kind: {} for kind in KINDS}
    requests = changed = 0
    for sample in samples:
        requests += 1
        headers = _Headers(sample.headers)
        one, other = before.find(sample, headers), after.find(sample, headers)
        changes = dict(_changes(sample, one, other, before, after))
        if changes:
            changed += 1
        if headers.unsure or (HIDDEN in sample.query and _hidden_parameters(sample.query) & asked):
            changes["unsure"] = "a condition looks at a value that was replaced"
        for kind, detail in changes.items():
            counts[kind] += 1
            shown = found[kind]
            pair = (one.rule.id if one is not None else "", other.rule.id if other is not None else "", detail)
            if len(shown) < examples and pair not in shown:
                shown[pair] = Example(sample.method, sample.host, sample.path, *pair)
    return Report(requests, changed, counts, {kind: tuple(shown.values()) for kind, shown in found.items() if shown})


class _Side:
    """One of the two configurations."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.router: Router[None] = Router(snapshot, lambda route, rule: None)
        self.plugins = {instance.id: instance for instance in snapshot.plugins}
        self.asked_parameters = frozenset(
            parameter.name for entry in self.router.entries for parameter in entry.match.query
        )
        self._names = frozenset(name for route in snapshot.routes for name in route.hostnames or (ANY,))
        self._hosts: dict[str, bool] = {}

    def find(self, sample: Sample, headers: _Headers) -> Entry[None] | None:
        return self.router.find(sample.method, sample.host, sample.path, headers, sample.query)

    def takes_host(self, host: str) -> bool:
        """Return whether any listener and any route is there for the host."""
        found = self._hosts.get(host)
        if found is None:
            allowed = self.router.allowed_listeners(host)
            found = self._hosts[host] = allowed != frozenset() and any(covers(name, host) for name in self._names)
        return found

    def plugins_of(self, entry: Entry[None]) -> list[PluginInstance]:
        return [self.plugins[each] for each in entry.rule.plugins if each in self.plugins]


def _changes(
    sample: Sample, one: Entry[None] | None, other: Entry[None] | None, before: _Side, after: _Side
) -> Iterator[tuple[Kind, str]]:
    if one is None:
        if other is not None:
            yield "new-route", f"{other.route.id} takes it"
        return
    if other is None:
        yield "no-route", f"{one.route.id} took it, nothing would"
        if not after.takes_host(sample.host):
            yield "lose-host", f"nothing is left for {sample.host or 'requests without a host'}"
        return
    if one.route.id != other.route.id:
        yield "change-route", f"{one.route.id} → {other.route.id}"
    elif one.rule.id != other.rule.id:
        yield "change-rule", f"{one.rule.id} → {other.rule.id}"
    shares = _shares(one), _shares(other)
    if shares[0] != shares[1]:
        yield "change-upstreams", f"{_told(shares[0])} → {_told(shares[1])}"
    had, has = before.plugins_of(one), after.plugins_of(other)
    # By id or by what runs: a plugin that is only called otherwise is not lost.
    left = {plugin.id for plugin in has} | {plugin.release.name for plugin in has}
    lost = [plugin for plugin in had if plugin.id not in left and plugin.release.name not in left]
    if lost:
        yield "lose-plugins", ", ".join(plugin.id for plugin in lost)
    unlocked = [plugin for plugin in lost if is_auth(plugin)]
    if unlocked:
        yield "lose-auth", ", ".join(plugin.id for plugin in unlocked)
    limits = _lost_limits(one, other)
    if limits:
        yield "lose-limits", ", ".join(limits)


def is_auth(plugin: PluginInstance) -> bool:
    """Return whether requests are less protected without the plugin: its publisher or its owner has requests refused rather
    than passed when it cannot run (failure policy `closed`), as everything does that tells who may pass."""
    return plugin.failure_policy == "closed" or plugin.release.failure_policy == "closed"


def _shares(entry: Entry[None]) -> dict[str, float]:
    total = sum(each.weight for each in entry.rule.backends)
    found: dict[str, float] = {}
    for each in entry.rule.backends:
        if each.weight:
            found[each.upstream] = found.get(each.upstream, 0.0) + each.weight / total
    return {name: round(share, 6) for name, share in found.items()}


def _told(shares: Mapping[str, float]) -> str:
    return " + ".join(f"{name or '(none)'} {share:.0%}" for name, share in sorted(shares.items())) or "no upstream"


def _lost_limits(one: Entry[None], other: Entry[None]) -> list[str]:
    """Return the names of rate limits that are gone, under any name, and the sizes that are not limited any more."""
    has = [each for each in other.rule.filters if isinstance(each, RateLimit)]
    names = {each.name for each in has}
    kinds = {(each.requests, each.per_s, each.burst, each.key) for each in has}
    lost = [
        each.name
        for each in one.rule.filters
        if isinstance(each, RateLimit)
        and each.name not in names
        and (each.requests, each.per_s, each.burst, each.key) not in kinds
    ]
    lost += [
        f"size of {name.removesuffix('_bytes')}s"
        for name in ("request_bytes", "response_bytes")
        if _limits(one, name) and not _limits(other, name)
    ]
    return lost


def _limits(entry: Entry[None], name: str) -> bool:
    return any(isinstance(each, SizeLimit) and getattr(each, name) for each in entry.rule.filters)


def _hidden_parameters(query: str) -> frozenset[str]:
    return frozenset(name for name, value in parse_query(query).items() if value.startswith(HIDDEN))
