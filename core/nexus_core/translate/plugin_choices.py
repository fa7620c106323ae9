"""Which release each NexusPlugin gets: from what its marketplace offers, what it allows, what ran before, and what goes together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from packaging.version import Version

from nexus_core.hooks import API_VERSION
from nexus_core.marketplace.locks import Lock, config_digest
from nexus_core.marketplace.resolving import Resolved, Resolver, Unresolved, Wish
from nexus_core.marketplace.rollouts import MISFITS
from nexus_core.marketplace.searching import Offer
from nexus_core.marketplace.updates import (
    Asked,
    Options,
    Window,
    contains,
    find_options,
    lets_through,
    parse_clock,
    within,
)
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot.plugins import PluginInstance, Release
from nexus_core.translate.memory import Memory
from nexus_core.translate.plugin_markets import Market, Markets, versions_of
from nexus_core.translate.translation import PassedOver
from nexus_core.translate.worlds import precedence

_MOST_NAMED = 10
"""Plugins that a problem lists of a marketplace."""
_MOST_PASSED = 5
"""Releases whose passing over is told: who looks for the reason looks for the newest one's."""


@dataclass(frozen=True)
class Choice:
    """What one NexusPlugin may have. running: the release that is locked, or that the previous Snapshot has; None for a first install.
    options: with something in `allowed`. problem: why that is not what was asked for, but what runs.
    """

    resource: Resource
    spec: NexusPluginSpec
    name: str
    market: Market
    options: Options
    running: Release | None
    lock: Lock
    before: PluginInstance | None
    problem: Problem | None = None

    @property
    def id(self) -> str:
        """`<namespace>/<name>`."""
        return f"{self.resource.ref.namespace}/{self.resource.ref.name}"

    def wish(self, allowed: tuple[Release, ...] = ()) -> Wish:
        """Return what is to be resolved. allowed: instead of all options."""
        others = self.market.usable.get(self.name, ())
        others = tuple(r for r in within(others, "", self.spec.channel) if self.lock.refusal_of(r) is None)
        taken = allowed or self.options.allowed
        return Wish(self.id, precedence(self.resource), self.name, self.market.name, taken, others)


def find_choice(
    resource: Resource,
    spec: NexusPluginSpec,
    markets: Markets,
    before: PluginInstance | None,
    lock: Lock,
    now_utc: datetime | None,
) -> Choice | Problem:
    """Return what a plugin may have, or why it may have nothing."""
    ref = resource.ref
    name = spec.plugin or ref.name
    lock = lock.with_config(config_digest(spec.config))
    market = markets.find(ref, spec)
    if isinstance(market, Problem):
        return market
    ran = [instance for instance in versions_of(before) if instance.release.name == name]
    running = _running(name, market, ran, lock)
    fitting = within(market.usable.get(name, ()), spec.version, spec.channel)
    wrong: Problem | None = None
    options = Options(())
    if not fitting and (running is None or not contains(spec.version, running.version)):
        wrong = _nothing(ref, spec, name, market)
    else:
        begun = next((i.release for i in ran if not _same(i.release, running)), None)
        options = find_options(fitting, _asked(spec), lock, running=running, begun=begun, now_utc=now_utc)
        if not options.allowed:
            wrong = _all_refused(ref, spec, name, fitting, lock)
    if wrong is not None:
        if running is None:
            return wrong
        options = Options((running,))  # what runs goes on, with what else its spec says
    return Choice(resource, spec, name, market, options, running, lock, before, wrong)


def resolve(choices: Iterable[Choice], markets: Markets, memory: Memory) -> Mapping[str, Resolved | Unresolved]:
    """Return what each gets, by id."""
    by_namespace: dict[str, list[Choice]] = {}
    for choice in choices:
        by_namespace.setdefault(choice.resource.ref.namespace, []).append(choice)
    if not by_namespace:
        memory.resolved = {}
        return {}
    resolver = Resolver(markets.shelves, memory.resolved)
    found: dict[str, Resolved | Unresolved] = {}
    for group in by_namespace.values():
        found |= resolver.resolve([choice.wish() for choice in group], _preferred(group))
    memory.resolved = resolver.used
    return found


def find_passed_over(choice: Choice, answer: Resolved | Unresolved, version: str) -> tuple[PassedOver, ...]:
    """Return the releases that the plugin allows and that are newer than what it gets, as far as they cannot be had; the newest first.

    version: of what it gets. Those that the update policy holds back, and those that were tried on traffic, are told elsewhere.
    """
    conflicts = {(r.version, r.sha256): why for r, why in answer.passed} if isinstance(answer, Resolved) else {}
    found = []
    running = choice.running if choice.running and contains(choice.spec.version, choice.running.version) else None
    for release in within(choice.market.listed.get(choice.name, ()), choice.spec.version, choice.spec.channel):
        if Version(release.version) <= Version(version):
            break
        mode = choice.spec.update_policy.mode
        if running is not None and not lets_through(mode, Version(running.version), Version(release.version)):
            continue
        refused = choice.lock.refusal_of(release)
        conflict = conflicts.get((release.version, release.sha256))
        if refused is not None:
            if refused.reason in MISFITS:
                found.append(PassedOver(release.version, refused.reason, refused.message))
        elif not contains(release.api, API_VERSION):
            what = f"It needs plugin API {release.api}; this is {API_VERSION}."
            found.append(PassedOver(release.version, "PluginIncompatible", what))
        elif release.publisher not in choice.market.keys:
            what = f'Its publisher "{release.publisher}" is none of those whom NexusMarketplace "{choice.market.name}" trusts.'
            found.append(PassedOver(release.version, "PublisherNotTrusted", what))
        elif conflict is not None:
            what = conflict or "It does not go with the other plugins of the namespace"
            found.append(PassedOver(release.version, "PluginConflict", f"{what}."))
    return tuple(found[:_MOST_PASSED])


def resolve_alone(choice: Choice, release: Release, markets: Markets) -> Resolved | Unresolved:
    """Return what one release runs with: what it ran with, if it ran; else what it would have without other plugins."""
    for instance in versions_of(choice.before):
        if _same(instance.release, release):
            libraries = tuple(_offer(markets, choice, library.release) for library in instance.libraries)
            if all(markets.by_name[offer.marketplace].is_usable(offer.release) for offer in libraries):
                return Resolved(release, libraries, instance.wheels)
    return Resolver(markets.shelves).resolve([choice.wish((release,))])[choice.id]


def _offer(markets: Markets, choice: Choice, release: Release) -> Offer:
    """Return a library with the marketplace that lists it now; its plugin's own when none does any more."""
    for offer in markets.shelves.offers(release.name, choice.market.name):
        if _same(offer.release, release):
            return offer
    return Offer(choice.market.name, release)


def _preferred(group: Iterable[Choice]) -> frozenset[tuple[str, str, str]]:
    """Libraries of plugins that stay as they are: they move when a plugin that needs them does, not by themselves."""
    return frozenset(
        (library.release.name, library.release.version, library.release.sha256)
        for choice in group
        for instance in versions_of(choice.before)
        if _same(instance.release, choice.options.allowed[0])
        for library in instance.libraries
    )


def _running(name: str, market: Market, ran: list[PluginInstance], lock: Lock) -> Release | None:
    """Return the release that is locked, from the index or from what ran; without a lock, what ran."""
    known = [*(i.release for i in ran), *market.listed.get(name, ())]
    if lock.version:
        known = [release for release in known if lock.is_of(release)]
    else:
        # What was refused before anything was locked has never run: the first install is still to come.
        known = [release for release in known[: min(len(ran), 1)] if lock.refusal_of(release) is None]
    # The index's own word for it, if it still lists it: its address may have changed.
    listed = [r for r in market.listed.get(name, ()) if any(_same(r, k) for k in known)]
    return next((r for r in (*listed, *known) if market.is_usable(r)), None)


def _asked(spec: NexusPluginSpec) -> Asked:
    policy = spec.update_policy
    window = None
    if policy.window is not None:
        window = Window(policy.window.days, parse_clock(policy.window.start), parse_clock(policy.window.end))
    return Asked(spec.version, spec.channel, policy.mode, window)


def _nothing(ref: ObjectRef, spec: NexusPluginSpec, name: str, market: Market) -> Problem:
    """Say why no release can be had."""
    listed = market.listed.get(name, ())
    if market.lost:
        what = f'The index of NexusMarketplace "{spec.marketplace}" could not be read.'
        fix = "See the marketplace's own conditions; the plugin is installed once its index is there."
        return Problem(ref, ".spec.marketplace", "MarketplaceUnreachable", what, fix)
    if not listed:
        path = ".spec.plugin" if spec.plugin else ".metadata.name"
        names = ", ".join(list(market.listed)[:_MOST_NAMED]) or "none"
        if len(market.listed) > _MOST_NAMED:
            names += f" and {len(market.listed) - _MOST_NAMED} more"
        what = f'NexusMarketplace "{spec.marketplace}" lists no plugin "{name}"; it lists {names}.'
        return Problem(ref, path, "PluginNotFound", what, "Set spec.plugin to one of them.")
    in_range = within(listed, spec.version, spec.channel)
    if not in_range:
        shown = ", ".join(_with_channel(r) for r in listed[:10])
        what = f'No version of {name} is in "{spec.version}"; there is {shown}.'
        fix = "Widen the range."
        if any(contains(spec.version, r.version) for r in listed):
            fix = "Widen the range, or set spec.channel to one of theirs."
        return Problem(ref, ".spec.version", "PluginVersionNotFound", what, fix)
    fitting = [r for r in in_range if contains(r.api, API_VERSION)]
    if not fitting:
        shown = ", ".join(f"{r.version} (needs API {r.api})" for r in in_range[:10])
        what = f"No version of {name} in the range works with plugin API {API_VERSION}: {shown}."
        return Problem(
            ref, ".spec.version", "PluginIncompatible", what, "Take a version made for this API, or upgrade Nexus."
        )
    release = fitting[0]
    what = f'{name} {release.version} is published by "{release.publisher}", whom NexusMarketplace "{spec.marketplace}" does not trust.'
    fix = "If you trust them, add their name and publicKey to the marketplace's publishers."
    return Problem(ref, ".spec.marketplace", "PublisherNotTrusted", what, fix)


def _all_refused(ref: ObjectRef, spec: NexusPluginSpec, name: str, fitting: Iterable[Release], lock: Lock) -> Problem:
    refused = [r for release in fitting if (r := lock.refusal_of(release)) is not None]
    shown = ", ".join(f"{r.version} ({r.reason})" for r in refused[:10])
    why = refused[0].message if refused else ""
    what = f'Every version of {name} in "{spec.version}" was tried and taken back: {shown}. {why}'.rstrip()
    fix = "Widen the range; or disable the plugin and enable it again, to have them tried again."
    if refused and all(r.reason in MISFITS for r in refused):
        what = f'No version of {name} in "{spec.version}" is for the gateways that there are: {shown}. {refused[0].message}'
        fix = "Widen the range, or run gateways that one of them is for: it is tried then by itself."
    return Problem(ref, ".spec.version", "PluginVersionNotFound", what, fix)


def _with_channel(release: Release) -> str:
    return release.version if release.channel == "stable" else f"{release.version} (channel {release.channel})"


def _same(release: Release, other: Release | None) -> bool:
    return other is not None and (release.version, release.sha256) == (other.version, other.sha256)
