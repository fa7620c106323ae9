"""The condition `Preview` of objects that are held back: what they would change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.unread import REASON as FIELD_LEFT_OUT

from nexus_operator.status.conditions import Condition, from_problems, merge
from nexus_operator.status.view import PAGES, View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object
from nexus_operator.world.kinds import ROUTES

TYPE = "Preview"
_NOT_APPLIED = "It is previewed, not applied; remove the annotation nexus.dev/preview to apply it."
EXAMPLES_SHOWN = 3
_AT_PARENTS = frozenset(kind.kind for kind in ROUTES)
"""Kinds whose conditions stand at each parent."""


def add_previews(view: View, writes: Iterable[StatusWrite]) -> Iterator[StatusWrite]:
    """Yield the writes, with the condition added to those of previewed objects."""
    preview = view.preview
    if preview is None:
        yield from writes
        return
    problems: dict[ObjectRef, list[Problem]] = {}
    for problem in view.candidate_problems:
        if problem.reason == FIELD_LEFT_OUT:
            continue  # accepted all the same
        problems.setdefault(problem.where, []).append(problem)
    # Held back without an earlier version that this operator knows: translation takes them for broken, and they are not.
    unread = {resource.ref for resource in view.resources if not resource.readable}
    for write in writes:
        meta = write.obj["metadata"]
        ref = ObjectRef(write.kind, str(meta.get("namespace") or ""), str(meta["name"]))
        if ref not in preview.previewed:
            yield write
            continue
        shown = [_condition(view, problems.get(ref, []))]
        if ref in unread:
            shown += [Condition(kind, "Unknown", "Pending", _NOT_APPLIED) for kind in ("Accepted", "Ready")]
        yield StatusWrite(write.kind, write.obj, _added(view, write, shown))


def _condition(view: View, problems: list[Problem]) -> Condition:
    assert view.preview is not None
    if problems:
        told = from_problems(TYPE, problems, docs_base=view.docs_base, pages=PAGES)
        what = f"Applied as it is, it would not be accepted ({told.reason}): {told.message}"
        return Condition(TYPE, "False", "CandidateInvalid", view.linked("CandidateInvalid", what))
    report = view.preview.report
    if report is None:
        what = f"No gateway has told of any request yet. {_NOT_APPLIED}"
        return Condition(TYPE, "Unknown", "SamplePending", view.linked("SamplePending", what))
    lines = [f"{report.summary('sampled requests')}. {_NOT_APPLIED}"]
    others = len(view.preview.previewed) - 1
    if others:
        lines.append(f"Compared together with {others} other previewed object{'s' if others > 1 else ''}.")
    for kind, examples in report.examples.items():
        lines += [f"{kind}: {each.method} {each.host}{each.path}: {each.detail}" for each in examples[:EXAMPLES_SHOWN]]
    return Condition(TYPE, "True", "ReplayCompared", "\n".join(lines))


def _added(view: View, write: StatusWrite, shown: list[Condition]) -> Mapping[str, Any]:
    """Return the status with the conditions in place of those of their types; only `Preview` is added where it was not."""
    held = write.obj.get("status") or {}
    status = dict(write.status)
    if write.kind not in _AT_PARENTS:
        status["conditions"] = _merged(view, write.obj, held, status.get("conditions", ()), shown)
        return status
    parents = []
    for parent in status.get("parents", ()):
        before: Mapping[str, Any] = next(
            (e for e in held.get("parents") or () if e.get("parentRef") == parent["parentRef"]), {}
        )
        if parent.get("controllerName") == view.controller_name:
            parent = {**parent, "conditions": _merged(view, write.obj, before, parent["conditions"], shown)}
        parents.append(parent)
    if parents:
        status["parents"] = parents
    return status


def _merged(
    view: View, obj: Object, held: Mapping[str, Any], there: Iterable[Mapping[str, Any]], shown: list[Condition]
) -> list[dict[str, Any]]:
    generation = int(obj["metadata"].get("generation") or 0)
    made = {
        each["type"]: each
        for each in merge(held.get("conditions") or (), shown, generation=generation, now_utc=view.now_utc)
    }
    found = [made.get(each["type"], dict(each)) for each in there]
    return [*found, made[TYPE]]
