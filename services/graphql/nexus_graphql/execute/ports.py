"""What the HTTP edge needs of an engine. graphql-core is the engine of today; a compiling one can take its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nexus_graphql.schema import Caller

FormattedError = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """One document, parsed and checked once. errors: why it cannot run; then `document` is None."""

    document: Any = None
    errors: tuple[FormattedError, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """data: None when nothing was executed or null reached the root. started: False for a refused request. extensions: of the answer."""

    data: Any
    errors: Sequence[FormattedError] = ()
    started: bool = True
    extensions: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Executes documents against one schema. Safe for many tasks of one loop at once."""

    def prepare(self, text: str) -> Plan:
        """Return the plan of a document, from the cache if it was seen. Never raises for any text."""
        ...

    def find_operation(self, plan: Plan, name: str | None) -> tuple[Literal["query", "mutation"], str] | None:
        """Return kind and name of the operation to run, None when `name` does not single one out."""
        ...

    def describe(self, plan: Plan, name: str | None) -> tuple[tuple[str, ...], int]:
        """Return the names of the operation's top-level fields, and how deep it is."""
        ...

    async def execute(self, plan: Plan, name: str | None, variables: Mapping[str, Any], caller: Caller) -> Outcome:
        """Run the operation. Errors of fields are in the outcome; raises only for a bug."""
        ...
