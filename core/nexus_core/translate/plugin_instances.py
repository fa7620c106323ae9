"""NexusPlugins with their releases to instances: the one that runs, and beside it the one that is tried."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from nexus_core.marketplace import permissions
from nexus_core.marketplace.addresses import public_url
from nexus_core.marketplace.locks import Lock, digest_of, encode_config
from nexus_core.marketplace.resolving import Resolved
from nexus_core.model.base import NAME_PATTERN, Model
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_core.snapshot.plugins import Budgets, Candidate, Lacking, Library, Permissions, PluginInstance, Release
from nexus_core.snapshot.sparse import sparse
from nexus_core.translate.plugin_choices import Choice, resolve_alone
from nexus_core.translate.plugin_markets import Markets, versions_of


@dataclass(frozen=True)
class Built:
    """instance: None when nothing may run. problem: why it is not what was asked for."""

    instance: PluginInstance | None
    problem: Problem | None = None


def build(choice: Choice, resolved: Resolved, markets: Markets) -> Built:
    """Return the instance, with a candidate where the release is new and has to prove itself first."""
    grants = grants_of(choice.spec)
    missing = permissions.find_missing(_asked(resolved), grants)
    if not permissions.is_empty(missing):
        return Built(build_former(choice, markets).instance, _not_permitted(choice, resolved, missing, grants))
    wanted = _instance(choice, resolved, markets, grants)
    running = choice.running
    if running is None or _same(running, resolved.release) or choice.spec.canary.seconds == 0:
        return Built(wanted)
    former = build_former(choice, markets).instance
    if former is None:
        return Built(wanted)  # what ran may run no more: there is nothing to prove itself beside
    canary = choice.spec.canary
    candidate = Candidate(
        instance=wanted,
        percent=float(canary.percent),
        seconds=float(canary.seconds),
        error_percent=float(canary.error_percent),
        latency_ms=float(canary.latency_milliseconds),
        min_calls=canary.min_calls,
    )
    config = _former_config(choice, former, wanted)
    return Built(msgspec.structs.replace(former, candidate=candidate, config=config))


def build_former(choice: Choice, markets: Markets) -> Built:
    """Return an instance of the release that runs, as far as it still may; of none when there is no such release."""
    if choice.running is None or not choice.market.is_usable(choice.running):
        return Built(None)
    resolved = resolve_alone(choice, choice.running, markets)
    if not isinstance(resolved, Resolved):
        return Built(None)
    grants = grants_of(choice.spec)
    if not permissions.is_empty(permissions.find_missing(_asked(resolved), grants)):
        return Built(None)
    return Built(_instance(choice, resolved, markets, grants))


def kept(instance: PluginInstance, spec: Model | None, lock: Lock | None) -> PluginInstance:
    """Return the last good instance of a plugin that is broken. spec: a NexusPluginSpec, or None when it cannot be read.

    A candidate that has proved itself takes over, one that was taken back goes, and so does one that a readable spec no longer
    chooses. It may use no more than it is still granted: what was taken back is gone at once.
    """
    instance = _public(instance)
    candidate = instance.candidate
    if candidate is not None:
        release = candidate.instance.release
        if lock is not None and lock.is_of(release):
            instance = candidate.instance
        elif isinstance(spec, NexusPluginSpec) or (
            lock is not None and lock.with_config(digest_of(candidate.instance)).refusal_of(release) is not None
        ):
            instance = msgspec.structs.replace(instance, candidate=None)
    if not isinstance(spec, NexusPluginSpec):
        return instance
    granted = permissions.narrow(instance.granted, grants_of(spec))
    return instance if granted == instance.granted else msgspec.structs.replace(instance, granted=granted)


def lacking(resource: Resource, problem: Problem | None) -> PluginInstance | None:
    """Return what stands for a plugin of which no release is known, so that its rules refuse requests; None where they may pass.

    They may unless the NexusPlugin itself says `failurePolicy: closed`: what its release would say is not known. problem: why there is
    no release.
    """
    ref, spec = resource.ref, resource.spec
    name, order = ref.name, 0
    if isinstance(spec, NexusPluginSpec):
        closed, name, order = spec.failure_policy == "closed", spec.plugin or name, spec.order
    else:
        # Of a spec that cannot be read, this is what it says in any case; of an object without a proper name there is no id.
        said = resource.raw.get("spec")
        named = re.fullmatch(NAME_PATTERN, name) is not None and bool(ref.namespace)
        closed = named and isinstance(said, Mapping) and said.get("failurePolicy") == "closed"
    if not closed:
        return None
    reason, message = "PluginUnavailable", "No release of it is known."
    if problem is not None:
        reason, message = problem.reason, f"{problem.what} {problem.fix}".strip()
    return PluginInstance(
        id=f"{ref.namespace}/{ref.name}",
        source=str(ref),
        release=Release(name=name, version="", api="", package="", entry_point="", sha256="", url=""),
        public_key="",
        order=order,
        failure_policy="closed",
        lacking=Lacking(reason, message),
    )


def _public(instance: PluginInstance) -> PluginInstance:
    """Return an instance without what was private in addresses: Snapshots of earlier releases have that."""
    candidate = instance.candidate
    addresses = (instance.base_url, *(library.base_url for library in instance.libraries))
    if candidate is None and all(public_url(each) == each for each in addresses):
        return instance
    return msgspec.structs.replace(
        instance,
        base_url=public_url(instance.base_url),
        libraries=tuple(
            msgspec.structs.replace(each, base_url=public_url(each.base_url)) for each in instance.libraries
        ),
        candidate=msgspec.structs.replace(candidate, instance=_public(candidate.instance)) if candidate else None,
    )


def grants_of(spec: NexusPluginSpec) -> Permissions:
    """Return what a NexusPlugin grants."""
    grants = spec.grants
    return Permissions(
        network=grants.network,
        services=grants.services,
        secrets=tuple(each.name for each in grants.secrets),
        read_headers=grants.headers.read,
        write_headers=grants.headers.write,
        consul=grants.consul,
        modules=grants.modules,
        native=grants.native_code,
    )


def _asked(resolved: Resolved) -> Permissions:
    return permissions.asked_of(resolved.release, (offer.release for offer in resolved.libraries))


def _instance(choice: Choice, resolved: Resolved, markets: Markets, grants: Permissions) -> PluginInstance:
    spec, release = choice.spec, resolved.release
    libraries = []
    for offer in resolved.libraries:
        market = markets.by_name[offer.marketplace]
        libraries.append(Library(offer.release, market.keys.get(offer.release.publisher, ""), market.base_url))
    return sparse(
        PluginInstance,
        id=choice.id,
        source=str(choice.resource.ref),
        release=release,
        public_key=choice.market.keys[release.publisher],
        base_url=choice.market.base_url,
        config=encode_config(spec.config),
        order=spec.order,
        timeout_s=float(spec.budgets.call_seconds or spec.timeout_seconds),
        failure_policy=spec.failure_policy or release.failure_policy,
        libraries=tuple(libraries),
        wheels=resolved.wheels,
        granted=permissions.narrow(_asked(resolved), grants),
        budgets=_budgets(spec),
    )


def _budgets(spec: NexusPluginSpec) -> Budgets:
    said = spec.budgets
    return sparse(
        Budgets,
        body_bytes=said.body_bytes,
        error_percent=float(said.error_percent),
        window_s=float(said.window_seconds),
        min_calls=said.min_calls,
        disabled_s=float(said.disabled_seconds),
        cpu_percent=float(said.cpu_percent or 0),
        block_s=float(said.block_seconds),
        memory_mb=said.memory_megabytes,
    )


def _former_config(choice: Choice, former: PluginInstance, wanted: PluginInstance) -> str:
    """Return the configuration of the version that runs.

    A configuration that came together with a new release may be for that one alone: the former keeps its own. One that comes while a
    release is tried is for both.
    """
    before = choice.before
    if before is None or not _same(before.release, former.release):
        return former.config
    began_with = before.candidate.instance.config if before.candidate is not None else wanted.config
    return before.config if began_with == wanted.config else former.config


def _not_permitted(choice: Choice, resolved: Resolved, missing: Permissions, grants: Permissions) -> Problem:
    release = resolved.release
    words = ", ".join(permissions.list_words(missing))
    what = f"{release.name} {release.version} asks for what it is not granted: {words}."
    former = _former_release(choice, release)
    if former is not None:
        news = permissions.find_missing(_asked(resolved), permissions.asked_of(former, _libraries(choice, former)))
        fresh = permissions.list_words(news)
        if fresh:
            what += f" {release.version} asks for {', '.join(fresh)}, which {former.version} did not."
    fix = f"If you want that, add to its spec: {permissions.grants_yaml(missing, grants)}"
    if "SECRET" in fix:
        fix += ", with your Secret's name and key"
    return Problem(choice.resource.ref, ".spec.grants", "PluginNotPermitted", what, f"{fix}.")


def _former_release(choice: Choice, release: Release) -> Release | None:
    return choice.running if choice.running is not None and not _same(choice.running, release) else None


def _libraries(choice: Choice, release: Release) -> Iterable[Release]:
    for instance in versions_of(choice.before):
        if _same(instance.release, release):
            return tuple(library.release for library in instance.libraries)
    return ()


def _same(release: Release, other: Release) -> bool:
    return (release.version, release.sha256) == (other.version, other.sha256)
