"""What an operation asks for, in a few words: its top-level fields and its depth."""

from __future__ import annotations

from collections.abc import Iterator

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    SelectionSetNode,
    get_operation_ast,
)

Fragments = dict[str, FragmentDefinitionNode]


def describe(document: DocumentNode, name: str | None) -> tuple[tuple[str, ...], int]:
    """Return the names of the top-level fields, each once, and how deep the operation is. document: valid, so without cycles."""
    operation = get_operation_ast(document, name)
    if operation is None:
        return (), 0
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    known: dict[str, int] = {}
    fields = dict.fromkeys(_names(operation.selection_set, fragments))
    return tuple(fields), _depth(operation.selection_set, fragments, known)


def _names(selections: SelectionSetNode, fragments: Fragments) -> Iterator[str]:
    for node in selections.selections:
        if isinstance(node, FieldNode):
            yield node.name.value
        elif isinstance(node, InlineFragmentNode):
            yield from _names(node.selection_set, fragments)
        elif isinstance(node, FragmentSpreadNode):
            yield from _names(fragments[node.name.value].selection_set, fragments)


def _depth(selections: SelectionSetNode | None, fragments: Fragments, known: dict[str, int]) -> int:
    """known: depths of fragments by name, so that a document that doubles itself is walked once."""
    deepest = 0
    for node in selections.selections if selections is not None else ():
        if isinstance(node, FieldNode):
            found = 1 + _depth(node.selection_set, fragments, known)
        elif isinstance(node, InlineFragmentNode):
            found = _depth(node.selection_set, fragments, known)
        else:
            assert isinstance(node, FragmentSpreadNode)
            spread = node.name.value
            if spread not in known:
                known[spread] = _depth(fragments[spread].selection_set, fragments, known)
            found = known[spread]
        deepest = max(deepest, found)
    return deepest
