"""Statuses of NexusPlugins and NexusMarketplaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.translation import PluginStatus

from nexus_operator.publication.acks import reports_of
from nexus_operator.status.conditions import Condition, merge, summary
from nexus_operator.status.view import View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object


def build(view: View, problems: dict[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
    """Yield the statuses of all NexusPlugins, then of all NexusMarketplaces."""
    for status in view.translation.plugins:
        obj = view.inventory.get("NexusPlugin", status.ref.namespace, status.ref.name)
        if obj is not None:
            yield _plugin(view, status, obj, problems.get(status.ref, []))
    for obj in view.inventory.all("NexusMarketplace"):
        yield _marketplace(view, obj, problems.get(ObjectRef("NexusMarketplace", "", obj["metadata"]["name"]), []))


def _plugin(view: View, status: PluginStatus, obj: Object, problems: list[Problem]) -> StatusWrite:
    conditions = [view.verdict("Accepted", problems, fallback=True), view.verdict("ResolvedRefs", problems)]
    if status.enabled or any(c.status == "False" for c in conditions):
        conditions.append(_programmed(view, status))
        ready = summary(conditions, conditions[-1].message)
    else:
        ready = Condition("Ready", "True", "Disabled", "It is switched off by .spec.enabled: requests pass without it.")
    fields: dict[str, Any] = {"plugin": status.plugin or None, "version": status.version or None}
    return _write(view, obj, [*conditions, ready], fields)


def _programmed(view: View, status: PluginStatus) -> Condition:
    """`Programmed`, made False by any replica that cannot run the plugin: an ack alone says no more than that it was told."""
    programmed = view.programmed(str(status.ref))
    if programmed.status != "True":
        return programmed
    plugin = f"{status.ref.namespace}/{status.ref.name}"
    reports = reports_of(view.fleet.acks, plugin)
    bad = [report for _, report in reports if report is not None and report.state != "loaded"]
    if bad:
        first = bad[0]
        reason = first.reason or "PluginFailed"
        left = f"; there version {first.version} stays in use" if first.state == "previous" and first.version else ""
        what = f"On {len(bad)} of {len(reports)} gateways it does not run as declared{left}. {first.message}"
        return Condition("Programmed", "False", reason, view.linked(reason, what.strip()))
    missing = sum(1 for _, report in reports if report is None)
    if missing:
        return Condition(
            "Programmed", "Unknown", "Pending", f"{missing} of {len(reports)} gateways have not loaded it yet."
        )
    return programmed


def _marketplace(view: View, obj: Object, problems: list[Problem]) -> StatusWrite:
    name = str(obj["metadata"]["name"])
    accepted = view.verdict("Accepted", problems, fallback=True)
    index, trouble = view.indexes.get(name), view.troubles.get(name)
    if trouble is not None:
        kept = "The last good index stays in use." if trouble.stale else ""
        message = view.linked(trouble.reason, f"{trouble.what} {trouble.fix} {kept}".strip())
        fetched = Condition("Fetched", "False", trouble.reason, message)
    elif index is not None:
        plugins = len({release.name for release in index.releases})
        fetched = Condition("Fetched", "True", "Fetched", f"{plugins} plugins, {len(index.releases)} releases")
    else:
        fetched = Condition("Fetched", "Unknown", "Pending", "The index is being fetched.")
    conditions = [accepted, fetched]
    fields: dict[str, Any] = {"plugins": len({r.name for r in index.releases}) if index is not None else None}
    return _write(view, obj, [*conditions, summary(conditions, fetched.message)], fields)


def _write(view: View, obj: Object, conditions: list[Condition], fields: dict[str, Any]) -> StatusWrite:
    generation = int(obj["metadata"].get("generation") or 0)
    held = (obj.get("status") or {}).get("conditions") or ()
    merged = merge(held, conditions, generation=generation, now_utc=view.now_utc)
    return StatusWrite(str(obj["kind"]), obj, {"observedGeneration": generation, **fields, "conditions": merged})
