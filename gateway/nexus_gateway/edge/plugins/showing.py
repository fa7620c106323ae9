"""The plugins as the admin API shows them: what is wanted, what runs, what it may do, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from nexus_core.hooks import Plugin
from nexus_core.hooks.specs import HOOKS
from nexus_core.snapshot import PluginInstance

from nexus_gateway.edge.plugins.meters import cost_of
from nexus_gateway.edge.plugins.overseeing import meters
from nexus_gateway.edge.plugins.slots import Slot


def show(slots: Iterable[Slot], now: float) -> list[dict[str, Any]]:
    """Return a row for each plugin. Rates, quantiles and CPU are of the last half minute. now: monotonic."""
    return [_row(slot, now) for slot in slots]


def _row(slot: Slot, now: float) -> dict[str, Any]:
    instance, report = slot.instance, slot.report
    running = slot.running.instance if slot.running is not None else None
    return {
        "id": instance.id,
        "plugin": instance.release.name,
        "version": instance.release.version,
        "order": instance.order,
        "failure_policy": instance.failure_policy,
        "state": report.state,
        "running_version": report.version,
        "reason": report.reason,
        "message": report.message,
        **cost_of(meters(slot) if running is not None else (), now),
        "memory_bytes": slot.meter.cost_bytes,
        "hooks": _hooks(slot),
        "asked": _permissions(instance.release.permissions),
        "granted": _permissions(instance.granted),
        "budgets": msgspec.to_builtins(instance.budgets, str_keys=True),
        "dependencies": _dependencies(instance),
        "candidate": _candidate(slot, now),
    }


def _hooks(slot: Slot) -> list[str]:
    """Return what its class overrides, of what runs; else what its release says."""
    if slot.plugin is None:
        return list(slot.instance.release.hooks)
    kind = type(slot.plugin)
    return [each.name for each in HOOKS if getattr(kind, each.name, None) not in (None, getattr(Plugin, each.name))]


def _permissions(permissions: Any) -> dict[str, Any]:
    """Return what is not as it is for every plugin."""
    found: dict[str, Any] = msgspec.to_builtins(permissions, str_keys=True)
    return found


def _dependencies(instance: PluginInstance) -> list[dict[str, str]]:
    plugins = [{"plugin": each.release.name, "version": each.release.version} for each in instance.libraries]
    return plugins + [{"wheel": each.name, "version": each.version} for each in instance.wheels]


def _candidate(slot: Slot, now: float) -> dict[str, Any] | None:
    report, terms = slot.report.candidate, slot.instance.candidate
    if report is None or terms is None:
        return None
    found: dict[str, Any] = {
        "version": report.version,
        "state": report.state,
        "reason": report.reason,
        "message": report.message,
        "percent": terms.percent,
        "seconds": terms.seconds,
        "changelog": terms.instance.release.changelog,
        "asked": _permissions(terms.instance.release.permissions),
    }
    trial = slot.trial
    if trial is not None:
        found |= {
            "requests": trial.requests,
            "failed_requests": trial.failures,
            "in_flight": trial.in_flight,
            **cost_of((trial.candidate.meter,), now),
        }
    return found
