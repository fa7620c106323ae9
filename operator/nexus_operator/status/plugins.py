"""Statuses of NexusPlugins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nexus_core.marketplace.locks import NO_LOCK, Lock, RefusedRelease, config_digest
from nexus_core.marketplace.rollouts import MISFITS
from nexus_core.marketplace.updates import contains
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import PluginInstance, PluginReport
from nexus_core.snapshot.narrowing import has_plugin
from nexus_core.translate.translation import PluginStatus
from packaging.version import InvalidVersion, Version

from nexus_operator.publication.acks import reports_of
from nexus_operator.publication.locks import show_lock
from nexus_operator.publication.servicereports import Hosting
from nexus_operator.status.conditions import Condition, merge, summary
from nexus_operator.status.view import View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object

WAITING = frozenset({"Pending", "NoGateways", "ConsulUnreachable"})
"""Reasons of `Programmed` that are nothing of the plugin's."""


def build(view: View, problems: dict[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
    """Yield the statuses of all NexusPlugins."""
    instances = {instance.id: instance for instance in view.translation.snapshot.plugins}
    for status in view.translation.plugins:
        obj = view.inventory.get("NexusPlugin", status.ref.namespace, status.ref.name)
        if obj is not None:
            name = f"{status.ref.namespace}/{status.ref.name}"
            yield _plugin(view, status, obj, problems.get(status.ref, []), instances.get(name))


def _plugin(
    view: View, status: PluginStatus, obj: Object, problems: list[Problem], instance: PluginInstance | None
) -> StatusWrite:
    name = f"{status.ref.namespace}/{status.ref.name}"
    lock = view.locks.get(name, NO_LOCK)
    conditions = [view.verdict("Accepted", problems, fallback=True), view.verdict("ResolvedRefs", problems)]
    if status.enabled or any(c.status == "False" for c in conditions):
        # What the operator itself found on the way to the gateways, before what these say.
        found = view.verdict("Programmed", problems)
        conditions.append(found if found.status == "False" else _programmed(view, status, instance))
        ready = summary(conditions, conditions[-1].message)
    else:
        ready = Condition("Ready", "True", "Disabled", "It is switched off by .spec.enabled: requests pass without it.")
    candidate = instance.candidate if instance is not None else None
    version = status.version or lock.version
    refused = _refused(obj, lock, version)
    reports = _reports(view, name, instance)
    figure = view.figures.get(name) if status.enabled else None
    fields: dict[str, Any] = {
        "plugin": status.plugin or None,
        "version": version or None,
        "acknowledged": _acknowledged(obj, conditions, version),
        "candidate": candidate.instance.release.version if candidate is not None else None,
        "available": status.available or None,
        "passedOver": [
            {"version": each.version, "reason": each.reason, "message": each.message[:4096]}
            for each in status.passed_over
        ]
        or None,
        "state": _state(status, conditions, _said(reports, view.hostings.get(name, ())), instance, refused),
        "lock": _lock(lock, instance) if lock != NO_LOCK else None,
        "callsPerSecond": figure.calls_per_s if figure is not None else None,
        "p99Milliseconds": figure.p99_ms if figure is not None else None,
        "errors": figure.errors if figure is not None else None,
    }
    if status.enabled and instance is not None and instance.lacking is None:
        conditions.append(_updated(view, status, instance, refused, reports))
    return write(view, obj, [*conditions, ready], fields)


def _reports(view: View, name: str, instance: PluginInstance | None) -> tuple[tuple[str, PluginReport | None], ...]:
    """What gateways report of a plugin: those that get it. One with secrets is not for those on whose routes it is not."""
    acks = view.fleet.acks
    return reports_of([a for a in acks if instance is None or has_plugin(instance, a.gateway)], name)


def _programmed(view: View, status: PluginStatus, instance: PluginInstance | None) -> Condition:
    """`Programmed`, made False by any gateway and any service's instance that cannot run the plugin: an ack alone says no more than
    that a gateway was told.
    """
    plugin = f"{status.ref.namespace}/{status.ref.name}"
    found = view.programmed(str(status.ref))
    if found.status == "True":
        found = _on_gateways(view, _reports(view, plugin, instance)) or found
    if found.status == "True" or found.reason in WAITING:
        # What a service says of the plugin is so whether or not a gateway has it.
        failing, missing = _in_services(view, view.hostings.get(plugin, ()))
        return failing or (missing if missing is not None and found.status == "True" else found)
    return found


def _on_gateways(view: View, reports: tuple[tuple[str, PluginReport | None], ...]) -> Condition | None:
    """What is wrong on gateways, None if nothing."""
    bad = [report for _, report in reports if report is not None and report.state != "loaded"]
    if bad:
        return _failing(view, f"On {len(bad)} of {len(reports)} gateways", bad[0])
    missing = sum(1 for _, report in reports if report is None)
    if missing:
        return Condition(
            "Programmed", "Unknown", "Pending", f"{missing} of {len(reports)} gateways have not loaded it yet."
        )
    return None


def _in_services(view: View, hostings: tuple[Hosting, ...]) -> tuple[Condition | None, Condition | None]:
    """What is wrong in the first service where something is, and where it is not loaded yet; None for neither."""
    failing = missing = None
    for each in hostings:
        where = f"{len(each.reports)} instances of NexusService {each.service}"
        if each.bad and failing is None:
            failing = _failing(view, f"On {len(each.bad)} of {where}", each.bad[0])
        if each.missing and missing is None:
            what = f"{each.missing} of {where} have not loaded it yet."
            missing = Condition("Programmed", "Unknown", "Pending", what)
    return failing, missing


def _failing(view: View, where: str, first: PluginReport) -> Condition:
    """where: as a sentence begins. first: of the reports from there that are not good."""
    reason = first.reason or "PluginFailed"
    left = f"; there version {first.version} stays in use" if first.state == "previous" and first.version else ""
    how = "it is disabled:" if first.state == "disabled" else f"it does not run as declared{left}."
    return Condition("Programmed", "False", reason, view.linked(reason, f"{where} {how} {first.message}".strip()))


def _updated(
    view: View,
    status: PluginStatus,
    instance: PluginInstance,
    refused: RefusedRelease | None,
    reports: tuple[tuple[str, PluginReport | None], ...],
) -> Condition:
    """`Updated`: whether the newest version that may run does; it says nothing of how the running one does."""
    candidate = instance.candidate
    if candidate is not None:
        version = candidate.instance.release.version
        said = [report.candidate for _, report in reports if report is not None and report.candidate is not None]
        waiting = [r for r in said if (r.version, r.state) == (version, "running") and r.message]
        if waiting:
            # The same one for every order in which gateways are heard.
            first = min(waiting, key=lambda r: (r.reason, r.message))
            reason = first.reason or "PluginFetchFailed"
            what = f"{version} cannot be tried on {len(waiting)} of {len(reports)} gateways: {first.message}"
            return Condition("Updated", "False", reason, view.linked(reason, what))
        what = (
            f"{version} is tried on {candidate.percent:g} % of the requests; it takes over when it has done "
            f"well for {candidate.seconds:g} s on every gateway."
        )
        return Condition("Updated", "Unknown", "Canary", what)
    newest = next(iter(status.passed_over), None)
    if newest is not None and (refused is None or Version(refused.version) <= Version(newest.version)):
        what = f"{newest.version} cannot run here, and {status.version} is taken instead. {newest.message}"
        return Condition("Updated", "False", newest.reason, view.linked(newest.reason, what))
    if refused is not None:
        reason = refused.reason or "PluginRolledBack"
        what = f"{refused.version} was tried and taken back; {status.version} stays in use. {refused.message}"
        return Condition("Updated", "False", reason, view.linked(reason, what.strip()))
    if status.available:
        return Condition("Updated", "False", "Held", f"{status.available} is there; .spec.updatePolicy holds it back.")
    return Condition("Updated", "True", "Updated")


def _acknowledged(obj: Object, conditions: Iterable[Condition], version: str) -> str | None:
    """The version that runs everywhere, as far as it is known; else the one that did last. It is what events are told from."""
    if version and any((c.type, c.status) == ("Programmed", "True") for c in conditions):
        return version
    return (obj.get("status") or {}).get("acknowledged") or None


def _refused(obj: Object, lock: Lock, version: str) -> RefusedRelease | None:
    """The newest release that was taken back, if it is newer than the one that runs and would be in the range."""
    spec = obj.get("spec") or {}
    wanted = str(spec.get("version") or "")
    counted = lock.with_config(config_digest(spec.get("config") or {}))
    newer = [r for r in counted.refused if contains(wanted, r.version) and _newer(r.version, version)]
    return max(newer, key=lambda r: Version(r.version), default=None)


def _newer(version: str, other: str) -> bool:
    try:
        return bool(other) and Version(version) >= Version(other)
    except InvalidVersion:
        return False


def _state(
    status: PluginStatus,
    conditions: list[Condition],
    said: Iterable[PluginReport | None],
    instance: PluginInstance | None,
    refused: RefusedRelease | None,
) -> str:
    """One word for a column: the most pressing thing that is so."""
    if not status.enabled:
        return "Off"
    if any(report is not None and report.state == "disabled" for report in said):
        return "Disabled"
    if any(c.status == "False" and c.reason not in WAITING for c in conditions):
        return "Failed"
    if instance is not None and instance.candidate is not None:
        return f"Canary {instance.candidate.instance.release.version}"
    if any(c.status != "True" for c in conditions):
        return "Pending"
    return "RolledBack" if refused is not None and refused.reason not in MISFITS else "Running"


def _said(
    reports: tuple[tuple[str, PluginReport | None], ...], hostings: tuple[Hosting, ...]
) -> Iterator[PluginReport | None]:
    """What is said of a plugin, by gateways and services."""
    yield from (report for _, report in reports)
    for each in hostings:
        yield from each.reports


def _lock(lock: Lock, instance: PluginInstance | None) -> dict[str, Any]:
    shown = show_lock(lock)
    libraries = instance.libraries if instance is not None else ()
    wheels = instance.wheels if instance is not None else ()
    shown["dependencies"] = [
        {"name": each.release.name, "version": each.release.version, "sha256": each.release.sha256}
        for each in libraries
    ]
    shown["wheels"] = [{"name": each.name, "version": each.version} for each in wheels]
    return shown


def write(view: View, obj: Object, conditions: list[Condition], fields: dict[str, Any]) -> StatusWrite:
    """Return the write of a status with these conditions and fields."""
    generation = int(obj["metadata"].get("generation") or 0)
    held = (obj.get("status") or {}).get("conditions") or ()
    merged = merge(held, conditions, generation=generation, now_utc=view.now_utc)
    return StatusWrite(str(obj["kind"]), obj, {"observedGeneration": generation, **fields, "conditions": merged})
