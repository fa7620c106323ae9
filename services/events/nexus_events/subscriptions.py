"""Subscriptions as values: what a user may ask for, and which events match. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nexus_events.protocol import Problem, Refused

ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?\Z")
_SERVICE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?\Z")
_TYPE = re.compile(r"[\x21-\x7e\u00a1-\ud7ff\ue000-\U0010fffd]{1,256}\Z")
_UNUSABLE = re.compile("[\x00-\x20\x7f\ud800-\udfff]")
"""In a URL or path: spaces, controls, and lone surrogates, which JSON can carry and UTF-8 cannot."""
MAX_TYPES = 100
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Sink:
    """Where events go: an absolute `url`, or `path` of the `service` that discovery finds. Exactly one of url and service."""

    url: str = ""
    service: str = ""
    path: str = "/"

    def __str__(self) -> str:
        return self.url or f"{self.service}{self.path}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """How hard a delivery is tried.

    max_attempts: answers that say "failed" until the event becomes a dead letter. An unreachable or overloaded
    subscriber does not count: it says nothing of the event. max_age_s: since the event was accepted; after it the next
    failure of any sort makes a dead letter. timeout_s: for one attempt.
    """

    max_attempts: int = 10
    max_age_s: float = 86_400.0
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """types: exact, or a prefix with `*` at its end; never empty. ttl_s: None: for ever. expires_at: Unix seconds or None.

    cursor: offset of the last event that is done with: delivered, not of interest, or a dead letter.
    skipped: events that retention deleted before they could be delivered.
    """

    id: str
    sink: Sink
    types: tuple[str, ...]
    delivery: Delivery = Delivery()
    ttl_s: float | None = None
    expires_at: float | None = None
    cursor: int = 0
    skipped: int = 0
    created_at: float = 0.0

    def wants(self, event_type: str) -> bool:
        return any(matches(pattern, event_type) for pattern in self.types)

    def is_same_order(self, other: Subscription) -> bool:
        """Whether both ask for the same deliveries, so that a renewal need not interrupt them."""
        return (self.sink, self.types, self.delivery) == (other.sink, other.types, other.delivery)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a new subscription begins. after: an offset; None: with the next event. store: the offset is of that store only."""

    after: int | None = None
    store: str = ""


def matches(pattern: str, event_type: str) -> bool:
    """`order.*` matches every type that begins with `order.`; without `*` the type has to be equal."""
    return event_type.startswith(pattern[:-1]) if pattern.endswith("*") else event_type == pattern


@dataclass(frozen=True, slots=True)
class SinkRules:
    """Which addresses a URL sink may lead to (the guard against requests forged through this service).

    hosts: allowed host names: exact, or `*.suffix`; networks may be listed too. Empty: any, which suits a cluster
    where subscribers are services on private addresses. denied: networks never connected to, also when a name
    resolves to them; default: link-local (cloud metadata lives there), multicast and unspecified.
    """

    hosts: tuple[str, ...] = ()
    denied: tuple[str, ...] = (
        "169.254.0.0/16",
        "fe80::/10",
        "224.0.0.0/4",
        "ff00::/8",
        "0.0.0.0/8",
        "::/128",
        "fd00:ec2::254/128",
    )

    def is_address_denied(self, address: str) -> bool:
        """address: an IP address; what is none is not judged here (False)."""
        try:
            ip = ipaddress.ip_address(address.split("%", 1)[0])
        except ValueError:
            return False
        inside = [ip, *_embedded(ip)] if isinstance(ip, ipaddress.IPv6Address) else [ip]
        return any(i in ipaddress.ip_network(network, strict=False) for network in self.denied for i in inside)

    def refusal(self, url: str) -> str:
        """Return why the URL may not be a sink, or an empty text."""
        return self.refusal_of_host(urlsplit(url).hostname or "")

    def refusal_of_host(self, host: str) -> str:
        """Return why the host may not be a sink's, or an empty text. host: a name or an address, without brackets."""
        if _looks_numeric(host) and not _is_address(host):
            # `2852039166` and `0251.0376.0251.0376` are 169.254.169.254 for the C library; and the HTTP client takes a host
            # of digits and dots for an address, which no resolver of ours gets to see.
            return f"{host} is no address in the usual form."
        if self.is_address_denied(host):
            return f"{host} is in a network that sinks may not lead to."
        if self.hosts and not any(_host_matches(rule, host) for rule in self.hosts):
            return f"{host} is not among the allowed hosts."
        return ""


def _looks_numeric(host: str) -> bool:
    return host.replace(".", "").isdigit()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _embedded(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that a packet to `ip` may end up at: mapped, 6to4 (RFC 3056), NAT64 (RFC 6052, /96)."""
    found = [a for a in (ip.ipv4_mapped, ip.sixtofour) if a is not None]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return found


def _host_matches(rule: str, host: str) -> bool:
    if rule.startswith("*."):
        return host.endswith(rule[1:].lower())
    if "/" in rule:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    return host == rule.lower()


def parse(subscription_id: str, document: Any, rules: SinkRules, *, now: float) -> tuple[Subscription, Start]:
    """Return the subscription that a PUT asks for. Raises Refused (400) with every problem. now: Unix seconds."""
    problems: list[Problem] = []
    if not ID.match(subscription_id):
        problems.append(
            Problem(
                "id",
                f"{subscription_id[:130]!r} is no id.",
                "Use 1 to 128 of A-Z a-z 0-9 . _ -, a letter or digit at both ends.",
            )
        )
    if not isinstance(document, dict):
        raise Refused(
            400, [*problems, Problem("body", "is no JSON object.", 'Send {"sink": …, "types": ["order.*"]}.')]
        )
    known = {"id", "sink", "types", "ttlSeconds", "delivery", "start"}
    problems += [
        Problem(f".{name[:80]}", "is no field.", f"Use: {', '.join(sorted(known))}.")
        for name in document
        if name not in known
    ]
    if document.get("id", subscription_id) != subscription_id:
        problems.append(Problem(".id", "differs from the id in the path.", "Leave it out."))
    sink = _parse_sink(document.get("sink"), rules, problems)
    types = _parse_types(document.get("types"), problems)
    ttl_s = _number(document, "ttlSeconds", None, 1, 31_536_000, "", problems)
    raw = document.get("delivery", {})
    if not isinstance(raw, dict):
        problems.append(Problem(".delivery", "is no object.", 'Send {"maxAttempts": 10}.'))
        raw = {}
    fields = {"maxAttempts", "maxAgeSeconds", "timeoutSeconds"}
    problems += [
        Problem(f".delivery.{n[:80]}", "is no field.", f"Use: {', '.join(sorted(fields))}.")
        for n in raw
        if n not in fields
    ]
    default = Delivery()
    attempts = _number(raw, "maxAttempts", default.max_attempts, 1, 10_000, ".delivery", problems)
    age_s = _number(raw, "maxAgeSeconds", default.max_age_s, 0, 31_536_000, ".delivery", problems)
    timeout_s = _number(raw, "timeoutSeconds", default.timeout_s, 0.05, 300, ".delivery", problems)
    start = _parse_start(document.get("start"), problems)
    if problems:
        raise Refused(400, problems)
    assert attempts is not None
    assert age_s is not None
    assert timeout_s is not None
    expires_at = None if ttl_s is None else now + ttl_s
    delivery = Delivery(int(attempts), age_s, timeout_s)
    return Subscription(subscription_id, sink, types, delivery, ttl_s, expires_at, created_at=now), start


def _parse_sink(raw: Any, rules: SinkRules, problems: list[Problem]) -> Sink:
    fix = 'Send "http://host:port/path" or {"service": "orders", "path": "/hooks"}.'
    if isinstance(raw, dict) and set(raw) == {"url"}:
        raw = raw["url"]
    if isinstance(raw, str):
        try:
            parts = urlsplit(raw)
            usable = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            usable = False
        if not usable or len(raw) > 2048 or _UNUSABLE.search(raw):
            problems.append(Problem(".sink", f"{raw[:80]!r} is no http(s) URL.", fix))
        elif parts.username is not None:
            problems.append(
                Problem(".sink", "holds credentials.", "Put a secret into the path's query, or let the gateway add it.")
            )
        elif refusal := rules.refusal(raw):
            problems.append(Problem(".sink", refusal, "Use another address, or change NEXUS_EVENTS_SINK_HOSTS."))
        return Sink(url=raw)
    if isinstance(raw, dict) and set(raw) <= {"service", "path"} and "service" in raw:
        service, path = raw["service"], raw.get("path", "/")
        if not isinstance(service, str) or not _SERVICE.match(service):
            problems.append(
                Problem(".sink.service", f"{str(service)[:80]!r} is no service name.", "Use 'orders' or 'orders.shop'.")
            )
        if not isinstance(path, str) or not path.startswith("/") or len(path) > 2048 or _UNUSABLE.search(path):
            problems.append(
                Problem(".sink.path", f"{str(path)[:80]!r} is no path.", "Use an absolute path such as '/hooks'.")
            )
        return Sink(service=str(service), path=str(path))
    problems.append(Problem(".sink", "is missing." if raw is None else "is neither a URL nor a service.", fix))
    return Sink()


def _parse_types(raw: Any, problems: list[Problem]) -> tuple[str, ...]:
    fix = 'Send such as ["order.placed", "invoice.*"]; ["*"] is every event.'
    if not isinstance(raw, list) or not raw or len(raw) > MAX_TYPES:
        problems.append(Problem(".types", f"has to be a list of 1 to {MAX_TYPES} types.", fix))
        return ()
    for number, pattern in enumerate(raw):
        if not isinstance(pattern, str) or not _TYPE.match(pattern) or "*" in pattern[:-1]:
            problems.append(
                Problem(f".types[{number}]", f"{str(pattern)[:80]!r} is no type; a * may stand at the end only.", fix)
            )
    return tuple(dict.fromkeys(str(pattern) for pattern in raw))


def _parse_start(raw: Any, problems: list[Problem]) -> Start:
    if raw is None or raw == "latest":
        return Start()
    if raw == "earliest":
        return Start(after=0)
    if isinstance(raw, dict) and set(raw) <= {"after", "store"} and isinstance(raw.get("store", ""), str):
        after = raw.get("after")
        if isinstance(after, int) and not isinstance(after, bool) and 0 <= after < 2**62:
            return Start(after, raw.get("store", ""))
    fix = 'Send "latest", "earliest" or {"after": offset, "store": id}.'
    problems.append(Problem(".start", f"{str(raw)[:80]!r} is no place to start.", fix))
    return Start()


def _number(
    raw: Mapping[str, Any],
    name: str,
    default: float | None,
    low: float,
    high: float,
    where: str,
    problems: list[Problem],
) -> float | None:
    value = raw.get(name, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        problems.append(
            Problem(f"{where}.{name}", f"{str(value)[:40]!r} is no number from {low:g} to {high:g}.", "Correct it.")
        )
        return default
    return float(value)


def to_document(subscription: Subscription) -> dict[str, Any]:
    """Return what GET shows of the subscription itself, in the words of a PUT."""
    sink: Any = (
        {"url": subscription.sink.url}
        if subscription.sink.url
        else {"service": subscription.sink.service, "path": subscription.sink.path}
    )
    delivery = subscription.delivery
    return {
        "id": subscription.id, "sink": sink, "types": list(subscription.types), "ttlSeconds": subscription.ttl_s,
        "delivery": {"maxAttempts": delivery.max_attempts, "maxAgeSeconds": delivery.max_age_s, "timeoutSeconds": delivery.timeout_s},
    }  # fmt: skip
