"""Kubernetes conditions: built from problems, merged with what the object shows already, bounded in length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nexus_core.problems import Problem

Truth = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 2048
"""Characters. Kubernetes allows 32768; `kubectl describe` of several conditions should still fit a screen."""
PROBLEMS_SHOWN = 5
_REASON = re.compile(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition before it is written. reason: CamelCase. message: may be empty."""

    type: str
    status: Truth
    reason: str
    message: str = ""

    def __post_init__(self) -> None:
        if not _REASON.match(self.reason):
            raise ValueError(f"condition reason {self.reason!r} is not CamelCase; the API server would refuse it")


def from_problems(kind: str, problems: Sequence[Problem], *, docs_base: str, pages: Mapping[str, str]) -> Condition:
    """Return the False condition that shows these problems, one or more of one object, in order.

    Its reason is the first problem's. pages: error page by reason, without directory.
    """
    lines = [_line(problem, docs_base, pages) for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"(and {len(problems) - PROBLEMS_SHOWN} more)")
    return Condition(kind, "False", problems[0].reason, bounded("\n".join(lines)))


def bounded(text: str) -> str:
    """Return the text, cut to MESSAGE_LIMIT characters with a mark."""
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 2] + " …"


def merge(
    held: Iterable[Mapping[str, Any]],
    wanted: Sequence[Condition],
    *,
    generation: int,
    now_utc: str,
    foreign: Callable[[str], bool] = lambda _: False,
) -> list[dict[str, Any]]:
    """Return the conditions to write, in the order of `wanted`.

    held: the conditions the object shows now. A condition whose status stays keeps its lastTransitionTime. Conditions of
    other types are dropped, unless they are `foreign`: those stay as they are, behind ours. generation: of the object the conditions are
    about. now_utc: RFC 3339.
    """
    before = {str(c.get("type")): c for c in held}
    merged: list[dict[str, Any]] = []
    for condition in wanted:
        known = before.get(condition.type, {})
        same = known.get("status") == condition.status and known.get("lastTransitionTime")
        merged.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": bounded(condition.message),
                "observedGeneration": generation,
                "lastTransitionTime": known["lastTransitionTime"] if same else now_utc,
            }
        )
    mine = {condition.type for condition in wanted}
    merged += [dict(c) for kind, c in before.items() if kind not in mine and foreign(kind)]
    return merged


def summary(conditions: Sequence[Condition], healthy: str) -> Condition:
    """Return `Ready`: True with the text `healthy` when all conditions are True, else the first False, else the first Unknown."""
    for status in ("False", "Unknown"):
        for condition in conditions:
            if condition.status == status:
                return Condition("Ready", condition.status, condition.reason, condition.message)
    return Condition("Ready", "True", "Ready", healthy)


def _line(problem: Problem, docs_base: str, pages: Mapping[str, str]) -> str:
    page = pages.get(problem.reason)
    link = f" → {docs_base}{page}" if page else ""
    path = "" if problem.path in ("", ".") else f"{problem.path}: "
    return f"{path}{problem.what} {problem.fix}{link}"
