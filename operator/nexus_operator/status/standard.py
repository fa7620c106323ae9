"""What the statuses of all Gateway API objects have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nexus_core.problems import Problem
from nexus_core.translate.translation import Remark, Verdict

from nexus_operator.status.conditions import Condition, from_problems, merge
from nexus_operator.status.view import PAGES, View
from nexus_operator.world.inventory import Object

OURS = frozenset(
    {"Accepted", "Programmed", "ResolvedRefs", "Conflicted", "Ready", "Preview", "SupportedVersion", "OverlappingTLSConfig",
     "InsecureFrontendValidationMode"}
)  # fmt: skip
"""Types of conditions that are the controller's to write, and to take away."""
OWN_PREFIX = "nexus.dev/"
LIMIT = 8
"""The CRDs' limit of a list of conditions."""


def is_foreign(kind: str) -> bool:
    """Return whether a condition of this type is somebody else's."""
    return kind not in OURS and not kind.startswith(OWN_PREFIX)


def condition(view: View, kind: str, verdict: Verdict) -> Condition:
    """Return a verdict as a condition, with the link to its reason's page when it is bad."""
    message = verdict.message if verdict.ok else view.linked(verdict.reason, verdict.message)
    return Condition(kind, "True" if verdict.ok else "False", verdict.reason, message)


def judged(
    view: View, kind: str, verdict: Verdict, problems: Iterable[Problem], others: frozenset[str] = frozenset()
) -> Condition:
    """Return a verdict with every problem that gave it rather than the first alone. others: reasons that would have given it, too."""
    by_reason: dict[str, list[Problem]] = {verdict.reason: []}
    for problem in problems:
        if problem.reason == verdict.reason or problem.reason in others:
            by_reason.setdefault(problem.reason, []).append(problem)
    if verdict.ok or not by_reason[verdict.reason]:
        return condition(view, kind, verdict)
    # One of each reason comes before the second of any: a condition shows no more than a few.
    first = [alike[0] for alike in by_reason.values()]
    rest = [problem for alike in by_reason.values() for problem in alike[1:]]
    return from_problems(kind, [*first, *rest], docs_base=view.docs_base, pages=PAGES)


def remarked(view: View, remarks: Iterable[Remark]) -> list[Condition]:
    """Return the conditions that are there only while they are True."""
    return [Condition(r.type, "True", r.reason, view.linked(r.reason, r.message)) for r in remarks]


def merged(view: View, obj: Object, held: Mapping[str, Any], conditions: list[Condition]) -> list[dict[str, Any]]:
    """Return the list to write in place of `held`'s, at the object's present generation."""
    generation = int(obj["metadata"].get("generation") or 0)
    found = merge(
        held.get("conditions") or (), conditions, generation=generation, now_utc=view.now_utc, foreign=is_foreign
    )
    return found[:LIMIT]
