"""Which requests go where. Resolved: every name here points into the same Snapshot."""

from __future__ import annotations

from typing import Literal

import msgspec

from nexus_core.snapshot.filters import Filter
from nexus_core.snapshot.policies import Hedge, Retry, Timeouts


class HeaderMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The header must be there with this value. name: lower-case. Repeated headers count as joined by `,`."""

    name: str
    value: str

    kind: Literal["exact", "regex"] = "exact"
    """`regex` holds when the expression (Python's `re`) matches the whole value."""


class QueryMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The query has this parameter (its first one counts), decoded, with exactly this value, or one the expression matches as a whole."""

    name: str
    value: str
    kind: Literal["exact", "regex"] = "exact"


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """All parts must hold. A `prefix` matches whole segments: `/a` covers `/a` and `/a/b`, never `/ab`.

    path: begins with `/`; a prefix has no slash at its end, save `/` itself; a `regex` (Python's `re`) must match the whole path.
    method: upper-case, empty for any.
    """

    path: str = "/"
    path_kind: Literal["exact", "prefix", "regex"] = "prefix"
    method: str = ""
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()


class WeightedBackend(msgspec.Struct, frozen=True, omit_defaults=True):
    """A share of a rule's requests.

    upstream: an `Upstream.id`, or empty for a reference that could not be resolved: its share is answered with 500.
    weight: 0 takes no requests.
    filters: for this backend's requests alone, after the rule's own.
    """

    upstream: str
    weight: int = 1
    filters: tuple[Filter, ...] = ()


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to match and what then happens.

    id: `<route id>/<index>`. matches: any of them, never empty. filters: in the user's order.
    backends: may be empty (a redirect, or 500). plugins: `PluginInstance.id`s, in the order they run.
    retry, timeouts, hedge: None takes the upstream's.
    """

    id: str
    matches: tuple[Match, ...]
    filters: tuple[Filter, ...] = ()
    backends: tuple[WeightedBackend, ...] = ()
    plugins: tuple[str, ...] = ()
    retry: Retry | None = None
    timeouts: Timeouts | None = None
    hedge: Hedge | None = None


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules of one object on some listeners.

    id: `<kind>/<namespace>/<name>`, kind being `HTTPRoute` or `NexusService`. source: the object, as `str(ObjectRef)`.
    listeners: `Listener.id`s, sorted. hostnames: lower-case, wildcards as `*.example.com`, already intersected with the
    listeners'; empty for any. created_at: RFC 3339 of the object; the older route wins between equal matches, then the
    smaller id. rules: in the user's order.
    """

    id: str
    source: str
    listeners: tuple[str, ...]
    hostnames: tuple[str, ...]
    rules: tuple[Rule, ...]
    created_at: str = ""
