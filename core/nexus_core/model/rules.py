"""A rule is one sentence of the contract that a schema alone cannot say, in CEL for the API server and in Python for files.

Both print the same message, which says what is wrong and what to do. A rule is put on a field (`Annotated[str, rule]`),
on a model (its `cel_rules`) or on a whole kind (`Kind.rules`, for `metadata`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

ERROR_TYPE = "nexus_rule"
"""`type` of the Pydantic error that a broken rule raises; its context holds `what`, `fix` and `reason`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """cel: an expression over `self`. what, fix: one sentence each; `holds`: the same test in Python, over the parsed value.

    field: CEL field path below the rule's place that the API server names in its answer (`.expose`); empty for the place itself.
    """

    cel: str
    what: str
    fix: str
    holds: Callable[[Any], bool]
    field: str = ""
    reason: str = "InvalidSpec"

    @property
    def message(self) -> str:
        """What the API server prints."""
        return f"{self.what} {self.fix}"

    def check(self, value: Any) -> Any:
        """Return the value. Raises PydanticCustomError when the rule does not hold."""
        if not self.holds(value):
            context = {"what": self.what, "fix": self.fix, "reason": self.reason, "field": self.field}
            raise PydanticCustomError(ERROR_TYPE, "{what} {fix}", context)
        return value

    def as_schema(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        return entry | ({"fieldPath": self.field} if self.field else {})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        found["x-kubernetes-validations"] = [*found.get("x-kubernetes-validations", []), self.as_schema()]
        return found


def at_least(limit: float) -> Rule:
    """Return the rule of a number that has a fraction for its minimum.

    A schema's `minimum` would not do: the API server cuts it to a whole number before it compares a whole number with it, and takes
    a 0 for 0.05. The field has `gt=0` beside this.
    """
    return Rule(
        cel=f"self >= {limit!r}",
        what="The number is too small.",
        fix=f"Write {limit!r} or more.",
        holds=lambda value: bool(value >= limit),
    )
