"""Statuses of NexusMarketplaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nexus_core.problems import ObjectRef, Problem

from nexus_operator.status.conditions import Condition, summary
from nexus_operator.status.plugins import write
from nexus_operator.status.view import View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object


def build(view: View, problems: dict[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
    """Yield the statuses of all NexusMarketplaces."""
    for obj in view.inventory.all("NexusMarketplace"):
        yield _marketplace(view, obj, problems.get(ObjectRef("NexusMarketplace", "", obj["metadata"]["name"]), []))


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
    metadata = view.metadata.get(name)
    if metadata is not None:
        fields["metadata"] = dict(metadata)
    return write(view, obj, [*conditions, summary(conditions, fetched.message)], fields)
