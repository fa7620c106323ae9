"""What happened to a plugin, told from the status that it shows and the one that it is about to show.

The status is the memory: a restart tells nothing twice, since what was told is what the object shows by then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nexus_operator.status.plugins import WAITING
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object

MESSAGE_LIMIT = 1000
"""Characters. The API server takes 1024 bytes of an event's note, and messages may hold others than ASCII."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One event. obj: what it happened to. mark: equal for the same happening of one object, told by whichever replica or process."""

    obj: Object
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    mark: str


def happenings_of(write: StatusWrite) -> Iterator[Happening]:
    """Yield what a status write of a NexusPlugin tells; nothing for one of any other kind."""
    if write.kind != "NexusPlugin":
        return
    held: Mapping[str, Any] = write.obj.get("status") or {}
    wanted = write.status
    times = [c.get("lastTransitionTime") for c in held.get("conditions") or ()]
    for kind, reason, message in _told(held, wanted):
        about = json.dumps([write.obj["metadata"].get("uid"), reason, message, times], sort_keys=True)
        mark = hashlib.sha256(about.encode()).hexdigest()[:16]
        yield Happening(write.obj, kind, reason, message[:MESSAGE_LIMIT], mark)


def _told(
    held: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[Literal["Normal", "Warning"], str, str]]:
    plugin = wanted.get("plugin") or "the plugin"
    after, runs = wanted.get("version"), wanted.get("acknowledged")
    ran = held.get("acknowledged") or _ran(held)
    was, now = str(held.get("state") or ""), str(wanted.get("state") or "")
    if runs and not ran:
        yield "Normal", "PluginInstalled", f"{plugin} {runs} was installed: it runs everywhere it is wanted."
    elif runs and runs != ran:
        yield "Normal", "PluginUpdated", f"{plugin} {runs} took over from {ran} everywhere."
    candidate = wanted.get("candidate")
    updated, updated_before = _condition(wanted, "Updated"), _condition(held, "Updated")
    is_known = candidate == held.get("candidate")
    waits, waited = updated.get("status") == "False", is_known and updated_before.get("status") == "False"
    if candidate and not waits and (waited or not is_known):
        yield "Normal", "CanaryStarted", f"{plugin}: {updated.get('message') or candidate}"
    elif candidate and waits and not (waited and updated_before.get("reason") == updated.get("reason")):
        # By the reason: which gateway's message is shown may change from one status to the next.
        yield "Warning", "CanaryWaiting", f"{updated.get('reason')}: {updated.get('message')}"
    is_told = (updated_before.get("status"), updated_before.get("message")) == ("False", updated.get("message"))
    passed, known = _passed(wanted), _passed(held)
    for version, each in passed.items():
        if known.get(version, {}).get("reason") != each.get("reason"):
            yield "Normal", "ReleasePassedOver", f"{plugin} {version} is passed over: {each.get('message')}"
    never_ran = {"Held", *(each.get("reason") for each in passed.values())}
    if not candidate and waits and updated.get("reason") not in never_ran and not is_told:
        yield "Warning", "PluginRolledBack", str(updated.get("message"))
    if now == "Disabled" and was != "Disabled":
        yield "Warning", "PluginDisabled", str(_condition(wanted, "Programmed").get("message"))
    elif now == "Off" and was not in ("", "Off"):
        yield "Normal", "PluginSwitchedOff", f"{plugin} was switched off by .spec.enabled."
    elif was in ("Disabled", "Off") and now not in ("Disabled", "Off", "Failed"):
        yield "Normal", "PluginEnabled", f"{plugin} {after or ''} is enabled again.".replace("  ", " ")
    for name, reason in (
        ("Accepted", "PluginRefused"),
        ("ResolvedRefs", "PluginRefused"),
        ("Programmed", "PluginFailed"),
    ):
        condition, shown = _condition(wanted, name), _condition(held, name)
        bad = condition.get("status") == "False" and condition.get("reason") not in WAITING | {"NotProgrammed"}
        if bad and now != "Disabled" and (shown.get("status"), shown.get("reason")) != ("False", condition["reason"]):
            yield "Warning", reason, f"{condition['reason']}: {condition.get('message')}"


def _ran(status: Mapping[str, Any]) -> object:
    """What ran everywhere by a status of an operator that did not write `acknowledged` yet."""
    return status.get("version") if _condition(status, "Programmed").get("status") == "True" else None


def _passed(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Releases that were passed over, by version."""
    return {str(each.get("version")): each for each in status.get("passedOver") or ()}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})
