"""Fields of the Gateway API that Nexus does not implement: which may be left out, and how that is told.

A field that says which requests are meant, or what must be done to them, cannot be left out: the object would mean more, or
protect less, than its author wrote. Such an object is refused. Any other field is named in the condition
`nexus.dev/UnsupportedFields`, and the rest of the object works.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_core.translate.translation import Remark

CONDITION = "nexus.dev/UnsupportedFields"
REASON = "FieldsNotImplemented"
MAX_NAMED = 16
"""Fields that a condition's message names; a message has 32768 characters at most."""

_NEEDED = re.compile(
    r"^\.spec\.(?:rules\[\d+\]\.(?:.*\.)?(?:matches|filters)|parentRefs|hostnames|targetRefs|validation)\b"
)
"""Paths below which nothing may be left out."""


def tolerate(resource: Resource) -> tuple[list[Problem], list[Problem]]:
    """Return the problems of a resource that name fields left out, and those for which it is refused.

    A resource whose spec could not be read has the second kind alone.
    """
    if not resource.readable:
        return [], list(resource.problems)
    ignored: list[Problem] = []
    refused: list[Problem] = []
    for problem in resource.problems:
        if problem.reason != "UnsupportedValue" or _NEEDED.search(problem.path):
            refused.append(problem)
            continue
        name = problem.path.rpartition(".")[2]
        what = f'Nexus does not implement "{name}"; the {resource.ref.kind} works as if it were not there.'
        ignored.append(
            replace(problem, reason=REASON, what=what, fix="Remove the field, if that is not what you want.")
        )
    return ignored, refused


def remark_of(problems: Iterable[Problem]) -> tuple[Remark, ...]:
    """Return the condition that names the fields, or none."""
    found = sorted({p for p in problems if p.reason == REASON})
    lines = [f"{p.path}: {p.what}" for p in found[:MAX_NAMED]]
    if len(found) > MAX_NAMED:
        lines.append(f"And {len(found) - MAX_NAMED} more.")
    return (Remark(CONDITION, REASON, "\n".join(lines)),) if lines else ()
