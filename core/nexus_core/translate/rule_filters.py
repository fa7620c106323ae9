"""The filters that policies put on rules, around those the route's author wrote.

The order: cors (a preflight is answered whatever follows), rate limits, fault, size limit; the author's filters; mirror,
reply, fallback. An author's CORS filter takes the place of a policy's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec

from nexus_core.snapshot import (
    Cors,
    DirectReply,
    Fallback,
    Fault,
    Filter,
    Mirror,
    RateLimit,
    Rule,
    SizeLimit,
)
from nexus_core.translate.wishes import Wishes

KINDS: dict[str, type[Filter]] = {
    "cors": Cors,
    "body_limits": SizeLimit,
    "mirror": Mirror,
    "fault": Fault,
    "fallback": Fallback,
    "reply": DirectReply,
}
POLICIES_ALONE = (RateLimit, Fault, SizeLimit, Fallback)
"""Kinds that no route's author can write: in a kept rule they are the policies' of that time, and made anew."""


@dataclass
class Chain:
    """What all levels say of one rule. frozen: sections that keep their last good filter. strays: names of policies
    whose limits stay where they were.
    """

    wishes: Wishes
    limits: list[RateLimit]
    frozen: set[str]
    strays: Collection[str] = ()


def with_filters(rule: Rule, chain: Chain, old: Rule | None, upstreams: Collection[str], *, kept: bool) -> Rule:
    """Return the rule with the chain's filters. old: its last good version. upstreams: ids of those that are there.

    kept: the rule is that last good version. Its cors, mirror and reply stay what they were, as nobody can tell whose
    they are; the rest is made anew.
    """
    nothing_said = not chain.limits and not chain.frozen and not any(key[0] in KINDS for key in chain.wishes)
    if nothing_said and not kept and not chain.strays:
        return rule
    limits = {limit.name: limit for limit in chain.limits}
    for item in old.filters if old is not None and chain.strays else ():
        if isinstance(item, RateLimit) and item.name.rpartition("/")[0] in chain.strays:
            limits.setdefault(item.name, item)
    said = _said(chain.wishes)
    if kept:
        said = {name: found for name, found in said.items() if isinstance(found, POLICIES_ALONE)}
    if old is not None:
        for name in sorted(chain.frozen):
            found = _last_of(old, rule, KINDS[name], kept=kept)
            said.pop(name, None)
            if found is not None:
                said[name] = found
    written = [f for f in rule.filters if not isinstance(f, POLICIES_ALONE)]
    if any(isinstance(f, Cors) for f in written):
        said.pop("cors", None)
    before = [*_of(said, "cors"), *(f for f in written if isinstance(f, Cors))]
    before += [*(limits[name] for name in sorted(limits, key=_by_number)), *_of(said, "fault", "body_limits")]
    after = _of(said, "mirror", "reply", "fallback")
    filters = whole((*before, *(f for f in written if not isinstance(f, Cors)), *after), upstreams)
    return rule if filters == rule.filters else msgspec.structs.replace(rule, filters=filters)


def whole(filters: Iterable[Filter], upstreams: Collection[str]) -> tuple[Filter, ...]:
    """Return the filters without mirrors to upstreams that are gone, and fallbacks without what is gone of them."""
    found: list[Filter] = []
    for item in filters:
        if isinstance(item, Mirror) and item.upstream not in upstreams:
            continue
        if isinstance(item, Fallback) and item.upstream and item.upstream not in upstreams:
            if item.reply is None:
                continue
            found.append(Fallback(reply=item.reply))
            continue
        found.append(item)
    return tuple(found)


def _said(wishes: Wishes) -> dict[str, Filter]:
    found: dict[str, Filter] = {}
    for section in ("cors", "mirror", "reply"):
        if (section, "whole") in wishes:
            found[section] = wishes[section, "whole"]
    sizes = [wishes.get(("body_limits", name), 0) for name in ("request_bytes", "response_bytes")]
    if any(sizes):
        found["body_limits"] = SizeLimit(*sizes)
    delay, abort = wishes.get(("fault", "delay")), wishes.get(("fault", "abort"))
    if delay or abort:
        found["fault"] = Fault(*(delay or (0.0, 0.0)), *(abort or (503, 0.0)))
    upstream, reply = wishes.get(("fallback", "upstream"), ""), wishes.get(("fallback", "reply"))
    if upstream or reply:
        found["fallback"] = Fallback(upstream, reply)
    return found


def _last_of(old: Rule, rule: Rule, kind: type[Filter], *, kept: bool) -> Filter | None:
    """Return a policy's filter of the last good version: the last of its kind, unless the rule's author wrote it."""
    if kept and kind not in POLICIES_ALONE:
        return None  # it is among the rule's filters
    had = [f for f in old.filters if isinstance(f, kind)]
    written = [f for f in rule.filters if isinstance(f, kind)]
    if kind not in POLICIES_ALONE and len(had) <= len(written):
        return None
    return had[-1] if had else None


def _of(said: dict[str, Filter], *names: str) -> list[Filter]:
    return [said[name] for name in names if name in said]


def _by_number(name: str) -> tuple[str, int]:
    owner, _, number = name.rpartition("/")
    return owner, int(number) if number.isdigit() else 0
