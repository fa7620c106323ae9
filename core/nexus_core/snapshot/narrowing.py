"""The part of a Snapshot that one Gateway's data plane runs: its listeners, what is on them, and what that leads to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nexus_core.snapshot.filters import Fallback, Filter, Mirror
from nexus_core.snapshot.listeners import Certificate
from nexus_core.snapshot.plugins import PluginInstance, SealedValue
from nexus_core.snapshot.snapshots import Snapshot
from nexus_core.snapshot.upstreams import Upstream


def of_gateway(snapshot: Snapshot, gateway: str) -> Snapshot:
    """Return what concerns one Gateway. gateway: `<namespace>/<name>`. Objects are taken over as they are, but for the other holders of
    its certificates and of plugins' secrets; plugins stay all, since every replica says of each whether it runs, but for those with secrets
    that this Gateway cannot open: they are on none of its routes. Services that plugins may call are those
    of the plugins on its routes.

    Cost: some milliseconds for 5,000 routes.
    """
    listeners = tuple(each for each in snapshot.listeners if each.gateway == gateway)
    ids = {each.id for each in listeners}
    routes = tuple(route for route in snapshot.routes if not ids.isdisjoint(route.listeners))
    streams = tuple(route for route in snapshot.streams if not ids.isdisjoint(route.listeners))
    wanted: set[str] = {backend.upstream for route in streams for backend in route.backends}
    for route in routes:
        for rule in route.rules:
            wanted.update(_led_to(rule.filters))
            for backend in rule.backends:
                wanted.add(backend.upstream)
                wanted.update(_led_to(backend.filters))
    used = {name for route in routes for rule in route.rules for name in rule.plugins}
    wanted |= _called((each for each in snapshot.plugins if each.id in used), snapshot.upstreams)
    gateways = tuple(each for each in snapshot.gateways if each.id == gateway)
    certificates = {each.client_certificate for each in gateways}
    for listener in listeners:
        if listener.tls is not None:
            certificates.update(listener.tls.certificates)
    return msgspec.structs.replace(
        snapshot,
        gateways=gateways,
        certificates=tuple(_held(each, gateway) for each in snapshot.certificates if each.id in certificates),
        listeners=listeners,
        routes=routes,
        streams=streams,
        upstreams=tuple(each for each in snapshot.upstreams if each.id in wanted),
        plugins=tuple(kept for each in snapshot.plugins if (kept := _of_holder(each, gateway)) is not None),
    )


def _called(plugins: Iterable[PluginInstance], upstreams: Iterable[Upstream]) -> set[str]:
    """Return the upstreams of the NexusServices that plugins may call."""
    named: set[str] = set()
    namespaces: set[str] = set()
    for plugin in plugins:
        tried = (plugin.candidate.instance,) if plugin.candidate is not None else ()
        for instance in (plugin, *tried):
            named.update(instance.granted.services)
            if "*" in instance.granted.services:
                namespaces.add(plugin.id.partition("/")[0])
    if namespaces:
        services = (upstream.id for upstream in upstreams if upstream.id.count("/") == 1)
        named.update(each for each in services if each.partition("/")[0] in namespaces)
    return named


def has_plugin(plugin: PluginInstance, gateway: str) -> bool:
    """Whether a gateway gets a plugin. gateway: `<namespace>/<name>` of the one that it serves, empty for all."""
    return not gateway or _of_holder(plugin, gateway) is not None


def _held(certificate: Certificate, gateway: str) -> Certificate:
    """Without the other holders: who else shows a certificate is no reason to open it again."""
    holders = tuple(holder for holder in certificate.holders if holder.gateway == gateway)
    return certificate if holders == certificate.holders else msgspec.structs.replace(certificate, holders=holders)


def _of_holder(plugin: PluginInstance, gateway: str) -> PluginInstance | None:
    """Return the plugin with what one Gateway can open, None when that is nothing of what it needs."""
    candidate = plugin.candidate
    if not plugin.sealed and (candidate is None or not candidate.instance.sealed):
        return plugin
    own = _held_values(plugin.sealed, gateway)
    if own is None:
        return None
    if candidate is not None:
        tried = _held_values(candidate.instance.sealed, gateway)
        if tried is None:
            return None
        instance = msgspec.structs.replace(candidate.instance, sealed=tried)
        candidate = msgspec.structs.replace(candidate, instance=instance)
    return msgspec.structs.replace(plugin, sealed=own, candidate=candidate)


def _held_values(values: tuple[SealedValue, ...], gateway: str) -> tuple[SealedValue, ...] | None:
    found = []
    for value in values:
        holders = tuple(holder for holder in value.holders if holder.gateway == gateway)
        if not holders:
            return None
        found.append(msgspec.structs.replace(value, holders=holders))
    return tuple(found)


def _led_to(filters: tuple[Filter, ...]) -> Iterator[str]:
    for each in filters:
        if isinstance(each, Mirror | Fallback):
            yield each.upstream
