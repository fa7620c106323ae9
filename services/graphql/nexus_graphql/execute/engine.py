"""The engine on graphql-core: parse, limits, validate, execute; documents are parsed and validated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, Literal

from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    NoSchemaIntrospectionCustomRule,
    OperationType,
    execute,
    get_operation_ast,
    parse,
    specified_rules,
    validate,
)

from nexus_graphql.execute import describing, limits
from nexus_graphql.execute.cache import DocumentCache
from nexus_graphql.execute.ports import Outcome, Plan
from nexus_graphql.schema import Caller


class CoreEngine:
    """Implements `ports.Engine`. One per schema: its cache dies with the schema it was validated against."""

    def __init__(
        self,
        schema: GraphQLSchema,
        bounds: limits.Limits,
        *,
        introspection: bool = True,
        count: Callable[[Literal["hit", "miss"]], None] = lambda _: None,
    ) -> None:
        """introspection: False also hides suggestions of names in errors. count: told of each look into the cache."""
        self.schema = schema
        self._count = count
        self.documents: DocumentCache[Plan] = DocumentCache()
        self._limits = bounds
        self._rules = [*specified_rules, *([] if introspection else [NoSchemaIntrospectionCustomRule])]
        self._suggest = introspection

    def prepare(self, text: str) -> Plan:
        plan = self.documents.get(text)
        self._count("miss" if plan is None else "hit")
        if plan is None:
            plan = self._prepare(text)
            self.documents.put(text, plan)
        return plan

    def _prepare(self, text: str) -> Plan:
        try:
            document = parse(text, max_lexical_tokens=self._limits.tokens, max_comments=self._limits.tokens)
        except GraphQLError as err:
            return Plan(errors=(err.formatted,))
        errors = limits.check(document, self._limits) or validate(
            self.schema, document, self._rules, max_errors=20, hide_suggestions=not self._suggest
        )
        return Plan(errors=tuple(e.formatted for e in errors)) if errors else Plan(document)

    def find_operation(self, plan: Plan, name: str | None) -> tuple[Literal["query", "mutation"], str] | None:
        document: DocumentNode = plan.document
        found = get_operation_ast(document, name)
        if found is None:
            return None
        kind: Literal["query", "mutation"] = "mutation" if found.operation is OperationType.MUTATION else "query"
        return kind, found.name.value if found.name else ""

    def describe(self, plan: Plan, name: str | None) -> tuple[tuple[str, ...], int]:
        return describing.describe(plan.document, name)

    async def execute(self, plan: Plan, name: str | None, variables: Mapping[str, Any], caller: Caller) -> Outcome:
        result = execute(
            self.schema, plan.document, context_value=caller, variable_values=dict(variables), operation_name=name,
            hide_suggestions=not self._suggest,
        )  # fmt: skip
        done: ExecutionResult = await result if isawaitable(result) else result
        errors = [e.formatted for e in done.errors or ()]
        # Variables that do not fit are found by execute, but before anything ran: errors without a path.
        refused = done.data is None and bool(errors) and all("path" not in e for e in errors)
        return Outcome(done.data, errors, started=not refused)
