"""Refuses documents that cost more than they may, before validation: validation itself is what an attacker pays with.

Fragments count as often as they are spread; each is measured once, so a document that doubles itself a hundred times
is refused in linear time. The depth of introspection is not counted here: graphql-core has its own rule for it, and the
queries of tools are deep. Its aliases and fields are: each is done once for every type or field of the schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """depth: nested fields, 12: deeper than pages need. aliases, 30: each is one more upstream request at the root.
    fields: selected in all, fragments expanded, 2,000. tokens: of the document, 2,000.
    """

    depth: int = 12
    aliases: int = 30
    fields: int = 2_000
    tokens: int = 2_000


@dataclass(frozen=True, slots=True)
class _Cost:
    depth: int = 0
    aliases: int = 0
    fields: int = 0


def check(document: DocumentNode, limits: Limits) -> list[GraphQLError]:
    """Return one error for each limit that an operation passes; empty when all is well."""
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    known: dict[str, _Cost] = {}
    errors = []
    for operation in document.definitions:
        if not isinstance(operation, OperationDefinitionNode):
            continue
        cost = _measure(operation.selection_set, fragments, known, frozenset())
        for what, found, most in (
            ("levels deep", cost.depth, limits.depth),
            ("aliases", cost.aliases, limits.aliases),
            ("fields", cost.fields, limits.fields),
        ):
            if found > most:
                shown = str(found) if found < 10**9 else "more than 10^9"
                text = f"The operation has {shown} {what}, {most} are allowed. Ask for less, or in several requests."
                errors.append(GraphQLError(text, operation, extensions={"code": "LIMIT_EXCEEDED"}))
    return errors


def _measure(
    selections: SelectionSetNode | None,
    fragments: dict[str, FragmentDefinitionNode],
    known: dict[str, _Cost],
    trail: frozenset[str],
) -> _Cost:
    if selections is None:
        return _Cost()
    costs = []
    for node in selections.selections:
        if isinstance(node, FieldNode):
            inner = _measure(node.selection_set, fragments, known, trail)
            depth = 0 if node.name.value.startswith("__") else inner.depth
            costs.append(_Cost(depth + 1, inner.aliases + (node.alias is not None), inner.fields + 1))
        elif isinstance(node, InlineFragmentNode):
            costs.append(_measure(node.selection_set, fragments, known, trail))
        elif isinstance(node, FragmentSpreadNode):
            name = node.name.value
            if name in trail or name not in fragments:
                continue  # validation says so, better than we could
            if name not in known:
                known[name] = _measure(fragments[name].selection_set, fragments, known, trail | {name})
            costs.append(known[name])
    return _sum(costs)


def _sum(costs: Iterable[_Cost]) -> _Cost:
    depth = aliases = fields = 0
    for cost in costs:
        depth, aliases, fields = max(depth, cost.depth), aliases + cost.aliases, fields + cost.fields
    return _Cost(depth, aliases, fields)
