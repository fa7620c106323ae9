"""Whose word a condition or a field is: objects do not tell it, their managedFields do.

Of those, no more is kept than conditions take, and of few kinds: they are often the largest part of an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nexus_operator.world.kinds import FIELD_MANAGER, GATEWAY, LISTENER_SET

Object = Mapping[str, Any]
KINDS = frozenset({GATEWAY.kind, LISTENER_SET.kind})
"""Kinds whose status belongs to one controller alone, so that it names none. What routes say, they say by controller."""


def writers_of(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return of an object's managedFields what they tell of the conditions in its status; of the answer, the same again."""
    return [
        {
            "manager": entry.get("manager"),
            "subresource": "status",
            "fieldsV1": {"f:status": {"f:conditions": dict(conditions)}},
        }
        for entry, conditions in _written(meta)
    ]


def is_our_word(obj: Object, kind: str) -> bool:
    """Return whether a condition of an object is as the operator wrote it, all of it. kind: the condition's type.

    An update leaves whoever wrote a field before as its owner while the value stays: of a condition that another controller wrote
    over ours, we own what is the same in both.
    """
    item = f'k:{{"type":"{kind}"}}'
    owners = {entry.get("manager") for entry, conditions in _written(obj["metadata"]) if item in conditions}
    return owners == {FIELD_MANAGER}


def owners_of(obj: Object, field: str) -> set[str]:
    """Return the managers that have set a field of an object's spec. obj: with all of its managedFields."""
    return {
        str(entry.get("manager"))
        for entry in obj["metadata"].get("managedFields") or ()
        if f"f:{field}" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    }


def _written(meta: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the entries for the status, each with what it tells of conditions."""
    for entry in meta.get("managedFields") or ():
        if entry.get("subresource") == "status":
            conditions = ((entry.get("fieldsV1") or {}).get("f:status") or {}).get("f:conditions") or {}
            if conditions:
                yield entry, conditions
