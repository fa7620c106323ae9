"""The `Problem` value. It knows nothing of conditions, terminals or HTTP; those read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Names one object: `NexusService shop/orders`, or `NexusMarketplace official` for a cluster-scoped kind.

    namespace: empty for cluster-scoped kinds.
    """

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @classmethod
    def parse(cls, text: str) -> ObjectRef:
        """Return the reference that `str()` printed. Raises ValueError for any other text."""
        kind, _, rest = text.partition(" ")
        namespace, slash, name = rest.partition("/")
        if not kind or not rest:
            raise ValueError(f"{text!r} is not an object reference; write 'Kind namespace/name' or 'Kind name'.")
        return cls(kind, namespace, name) if slash else cls(kind, "", rest)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with one object.

    where: the object that has to change.
    path: the field, as users write it (`.spec.expose.path`, `.spec.rules[0].backendRefs[1].name`); `.` for the whole object.
    reason: CamelCase, listed in `nexus_core.problems.catalogue`, which says which condition shows it and links its page.
    what: one sentence that says what was found. fix: one sentence that says what to do.
    """

    where: ObjectRef
    path: str
    reason: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where} {self.path}: {self.what} {self.fix} ({self.reason})"


def sort_problems(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems without repeats, ordered by object, path, reason."""
    return tuple(sorted(set(problems)))
