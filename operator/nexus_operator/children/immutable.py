"""Fields of children that the API server lets nobody change: the rest of the child is applied all the same, and its author is told.

There is one that can meet a change: the load balancer of a Service (`loadBalancerClass`) stays as long as the Service is one of type
LoadBalancer. Making the Service anew would change it, and take its address away: that is for people to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_operator.world.inventory import Object, key_of
from nexus_operator.world.kinds import RENDERED, SERVICE
from nexus_operator.world.words import owners_of

FIELD = "loadBalancerClass"


@dataclass(frozen=True, slots=True)
class Applicable:
    """body: what can be applied. what, fix: what is left of the wishes, and a remedy, each a sentence; empty for nothing."""

    body: Object
    what: str = ""
    fix: str = ""


def applicable(wanted: Object, live: Object | None, manager: str) -> Applicable:
    """Return what can be applied over a live object. live: with its managedFields; None for none. manager: our name in those."""
    if live is None or wanted["kind"] != SERVICE.kind or not _keeps_type(wanted, live):
        return Applicable(wanted)
    asked, held = _spec(wanted).get(FIELD), _spec(live).get(FIELD)
    if asked == held or (
        asked is None and manager not in owners_of(live, FIELD)
    ):  # of which we said nothing, others may have
        return Applicable(wanted)
    spec = {key: value for key, value in _spec(wanted).items() if key != FIELD}
    if held is not None:
        spec[FIELD] = held
    # The mark stays that of what was applied in full: whoever compares finds that something is left to do.
    mark = {k: v for k, v in (live["metadata"].get("annotations") or {}).items() if k == RENDERED}
    meta = {**wanted["metadata"], "annotations": {**(wanted["metadata"].get("annotations") or {}), **mark}}
    name = "/".join(key_of(live))
    what = f"Kubernetes lets nobody change {FIELD} of Service {name} from {_quoted(held)} to {_quoted(asked)} while it exists."
    fix = f"Delete the Service, which is made anew at once and gets another address; or {_undo(held)}."
    return Applicable({**wanted, "metadata": meta, "spec": spec}, what, fix)


def _keeps_type(wanted: Object, live: Object) -> bool:
    return all(_spec(obj).get("type") == "LoadBalancer" for obj in (wanted, live))


def _spec(obj: Object) -> Mapping[str, Any]:
    return obj.get("spec") or {}


def _quoted(name: str | None) -> str:
    return "none" if name is None else f'"{name}"'


def _undo(held: str | None) -> str:
    return f"take service.{FIELD} out of its parameters" if held is None else f'set service.{FIELD} back to "{held}"'
