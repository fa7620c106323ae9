"""What a policy says, in the Snapshot's terms: the table from written fields to stored ones.

A wish is one value that merging takes or leaves as a whole. Rate limits are no wishes: all of them hold together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from nexus_core.model import policies as model
from nexus_core.model import rule_policies, upstream_policies
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import (
    Balancing,
    CircuitBreaker,
    Concurrency,
    Cors,
    DirectReply,
    HashKey,
    HealthCheck,
    Hedge,
    Mirror,
    Outlier,
    Persistence,
    RateLimit,
    Retry,
    Timeouts,
    UpstreamTls,
)

Key = tuple[str, str]
"""(section, field) of the Snapshot's structs, as `("retry", "attempts")`."""

Wishes = dict[Key, Any]
"""Values by key; what is not there is not said. `(section, "enabled")` says whether an optional section is on."""

SECTIONS: Mapping[str, type[Any]] = {
    "balancing": Balancing,
    "breaker": CircuitBreaker,
    "service_breaker": CircuitBreaker,
    "outlier": Outlier,
    "health": HealthCheck,
    "retry": Retry,
    "hedge": Hedge,
    "timeouts": Timeouts,
    "concurrency": Concurrency,
    "tls": UpstreamTls,
}
"""Of an `Upstream`. The optional ones among them are None there until something is said."""

OPTIONAL = frozenset({"service_breaker", "outlier", "health", "hedge", "tls"})
ROUTE_SECTIONS = frozenset({"retry", "hedge", "timeouts"})
"""Sections of an upstream that a rule may have of its own."""
RULE_SECTIONS = frozenset({"cors", "body_limits", "mirror", "fault", "fallback", "reply"})
"""Sections that become filters of rules."""
TIGHTEST = frozenset({("body_limits", "request_bytes"), ("body_limits", "response_bytes")})
"""Keys of which the smallest value holds, 0 standing for no limit, whoever says it."""


def tighter(one: int, other: int) -> int:
    """Return the smaller of two limits, 0 standing for none."""
    return min(one, other) if one and other else one or other


def combine(wide: Wishes, narrow: Wishes) -> Wishes:
    """Return both, the narrower winning, save where the tighter one does."""
    found = {**wide, **narrow}
    for key in TIGHTEST & wide.keys() & narrow.keys():
        found[key] = tighter(wide[key], narrow[key])
    return found


@dataclass(frozen=True, slots=True)
class _Field:
    """written: path of model attributes. stored: key of the wish. convert: gives the wish, or None when nothing is said."""

    written: tuple[str, ...]
    stored: Key
    convert: Callable[[Any], Any] = lambda value: value


def _ratio(percent: float) -> float:
    return percent / 100


def hash_key(key: upstream_policies.RequestKey) -> HashKey:
    """Return the Snapshot's form of a key. Header names are lower-case there."""
    if key.header is not None:
        return HashKey("header", key.header.lower())
    if key.cookie is not None:
        return HashKey("cookie", key.cookie)
    if key.query is not None:
        return HashKey("query", key.query)
    return HashKey("claim", key.claim) if key.claim is not None else HashKey("source")


def _persistence(said: upstream_policies.SessionPersistence) -> Persistence:
    if said.header is not None:
        return Persistence("header", said.header.lower(), said.absolute_seconds or 0.0)
    return Persistence("cookie", said.cookie or Persistence().name, said.absolute_seconds or 0.0)


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _reply(said: rule_policies.Reply) -> DirectReply:
    return DirectReply(said.status, said.body, said.content_type)


def _cors(said: rule_policies.Cors) -> Cors:
    headers, expose = (tuple(n.lower() for n in names) for names in (said.headers, said.expose_headers))
    return Cors(said.origins, said.methods, headers, expose, said.credentials, said.max_age_seconds)


def _breaker(written: str, stored: str) -> tuple[_Field, ...]:
    return (
        _Field((written, "failures"), (stored, "failures")),
        _Field((written, "reset_seconds"), (stored, "reset_s"), float),
        _Field((written, "error_percent"), (stored, "error_ratio"), _ratio),
        _Field((written, "min_requests"), (stored, "min_requests")),
        _Field((written, "window_seconds"), (stored, "window_s"), float),
        _Field((written, "probes"), (stored, "probes")),
    )


def _switch(written: str, stored: str) -> _Field:
    """Writing the section turns it on, `enabled: false` off."""
    return _Field((written,), (stored, "enabled"), lambda section: getattr(section, "enabled", None) is not False)


FIELDS = (
    _Field(("load_balancing", "algorithm"), ("balancing", "algorithm")),
    _Field(
        ("load_balancing", "hash_on"), ("balancing", "hash_on"), lambda keys: tuple(dict.fromkeys(map(hash_key, keys)))
    ),
    _Field(("load_balancing", "subset"), ("balancing", "subset"), lambda pairs: tuple(sorted(pairs.items()))),
    _Field(("load_balancing", "zone_aware"), ("balancing", "zone_aware")),
    _Field(("load_balancing", "slow_start_seconds"), ("balancing", "slow_start_s"), float),
    _Field(("load_balancing", "panic_percent"), ("balancing", "panic_ratio"), _ratio),
    _Field(("load_balancing", "session_persistence"), ("balancing", "persistence"), _persistence),
    *_breaker("circuit_breaker", "breaker"),
    _switch("service_circuit_breaker", "service_breaker"),
    *_breaker("service_circuit_breaker", "service_breaker"),
    _switch("outlier_detection", "outlier"),
    _Field(("outlier_detection", "failures"), ("outlier", "failures")),
    _Field(("outlier_detection", "eject_seconds"), ("outlier", "eject_s"), float),
    _Field(("outlier_detection", "max_ejected_percent"), ("outlier", "max_ejected_ratio"), _ratio),
    _switch("health_check", "health"),
    _Field(("health_check", "http"), ("health", "kind"), lambda http: "http"),
    _Field(("health_check", "tcp"), ("health", "kind"), lambda tcp: "tcp" if tcp else None),
    _Field(("health_check", "grpc"), ("health", "kind"), lambda grpc: "grpc"),
    _Field(("health_check", "http", "path"), ("health", "path")),
    _Field(("health_check", "http", "host"), ("health", "host")),
    _Field(("health_check", "http", "statuses"), ("health", "statuses"), lambda s: tuple(sorted(set(map(_range, s))))),
    _Field(("health_check", "grpc", "service"), ("health", "service")),
    _Field(("health_check", "port"), ("health", "port")),
    _Field(("health_check", "interval_seconds"), ("health", "interval_s"), float),
    _Field(("health_check", "timeout_seconds"), ("health", "timeout_s"), float),
    _Field(("health_check", "jitter_percent"), ("health", "jitter_ratio"), _ratio),
    _Field(("health_check", "unhealthy"), ("health", "unhealthy")),
    _Field(("health_check", "healthy"), ("health", "healthy")),
    _Field(("retry", "attempts"), ("retry", "attempts")),
    _Field(("retry", "when"), ("retry", "on"), lambda when: tuple(sorted(set(when)))),
    _Field(("retry", "backoff_seconds"), ("retry", "backoff_s"), float),
    _Field(("retry", "budget_percent"), ("retry", "budget_ratio"), _ratio),
    _switch("hedge", "hedge"),
    _Field(("hedge", "percentile"), ("hedge", "percentile"), _ratio),
    _Field(("hedge", "min_delay_seconds"), ("hedge", "min_delay_s"), float),
    _Field(("hedge", "budget_percent"), ("hedge", "budget_ratio"), _ratio),
    _Field(("timeouts", "request_seconds"), ("timeouts", "request_s"), float),
    _Field(("timeouts", "try_timeout_seconds"), ("timeouts", "try_s"), float),
    _Field(("timeouts", "connect_seconds"), ("timeouts", "connect_s"), float),
    _Field(("timeouts", "idle_seconds"), ("timeouts", "idle_s"), float),
    _Field(("concurrency", "max_requests"), ("concurrency", "max_requests")),
    _Field(("concurrency", "max_pending"), ("concurrency", "max_pending")),
    _Field(("concurrency", "max_connections"), ("concurrency", "max_connections")),
    _Field(("concurrency", "adaptive"), ("concurrency", "adaptive")),
    _Field(("concurrency", "min_limit"), ("concurrency", "min_limit")),
    _Field(("concurrency", "max_limit"), ("concurrency", "max_limit")),
    _switch("tls", "tls"),
    _Field(("tls", "server_name"), ("tls", "server_name")),
    _Field(("tls", "ca_certificate"), ("tls", "ca")),
    _Field(("tls", "verify"), ("tls", "verify")),
    # Whole: origins that were meant without credentials must not meet another policy's credentials.
    _Field(("cors",), ("cors", "whole"), _cors),
    _Field(("body_limits", "request_bytes"), ("body_limits", "request_bytes")),
    _Field(("body_limits", "response_bytes"), ("body_limits", "response_bytes")),
    _Field(("mirror",), ("mirror", "whole"), lambda said: Mirror(said.service, said.percent / 100)),
    _Field(("fault", "delay"), ("fault", "delay"), lambda said: (float(said.seconds), said.percent / 100)),
    _Field(("fault", "abort"), ("fault", "abort"), lambda said: (said.status, said.percent / 100)),
    _Field(("fallback", "service"), ("fallback", "upstream")),
    _Field(("fallback", "reply"), ("fallback", "reply"), _reply),
    _Field(("reply",), ("reply", "whole"), _reply),
)

STORED_SECTIONS: Mapping[str, str] = {item.written[0]: item.stored[0] for item in FIELDS}
"""Written section → stored section."""


@dataclass
class Said:
    """What one object says. frozen: stored sections that cannot be read and keep their last good values.

    limits: None when they cannot be read. Services are still named as they were written.
    """

    wishes: Wishes = field(default_factory=dict)
    limits: tuple[RateLimit, ...] | None = ()
    frozen: set[str] = field(default_factory=set)


def said_by(spec: model.PolicyFields, ref: ObjectRef) -> Said:
    """Return what a policy says. ref: the object it is written in; its rate limits are counted under that name."""
    wishes: Wishes = {}
    for item in FIELDS:
        value: Any = spec
        for step in item.written:
            value = getattr(value, step)
            if value is None:
                break
        if value is not None and (converted := item.convert(value)) is not None:
            wishes[item.stored] = converted
    limits = tuple(
        RateLimit(
            f"{ref}/{index}",
            limit.requests,
            float(limit.per_seconds),
            limit.burst,
            tuple(dict.fromkeys(map(hash_key, limit.key))),
        )
        for index, limit in enumerate(spec.rate_limit or ())
    )
    return Said(wishes, limits)


def salvage(resource: Resource) -> Said:
    """Return what a broken policy still says: its sound sections."""
    raw = resource.raw.get("spec")
    found = Said()
    if not isinstance(raw, dict):
        return found
    for attribute, info in model.PolicyFields.model_fields.items():
        written = info.alias or attribute
        if raw.get(written) is None:
            continue
        try:
            text = json.dumps({written: raw[written]}, allow_nan=False)
            said = said_by(model.PolicyFields.model_validate_json(text), resource.ref)
        except (pydantic.ValidationError, TypeError, ValueError, RecursionError, OverflowError):
            if attribute == "rate_limit":
                found.limits = None
            else:
                found.frozen.add(STORED_SECTIONS[attribute])
        else:
            found.wishes |= said.wishes
            if said.limits:
                found.limits = said.limits
    return found


def path_of(key: Key) -> str:
    """Return the field as users write it: `retry.attempts`."""
    written = next(item.written for item in FIELDS if item.stored == key)
    names = []
    here: Any = model.PolicyFields
    for step in written:
        info = here.model_fields[step]
        names.append(info.alias or step)
        here = next(
            (part for part in (info.annotation, *getattr(info.annotation, "__args__", ())) if _is_model(part)), None
        )
    return ".".join(names)


def _is_model(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, pydantic.BaseModel)
