"""Changes one field, or takes out one object, of a manifest's text and nothing else: comments, order and quotes stay. Pure."""

from __future__ import annotations

import yaml


class EditRefused(ValueError):
    """The text is not as it should be for this edit. The message says what to change by hand."""


def set_enabled(text: str, *, kind: str, namespace: str, name: str, enabled: bool) -> str:
    """Return the text with `spec.enabled` of one object set; see `set_field`."""
    return set_field(text, "enabled", "true" if enabled else "false", kind=kind, namespace=namespace, name=name)


def set_field(text: str, field: str, wanted: str, *, kind: str, namespace: str, name: str) -> str:
    """Return the text with a scalar field of one object's spec set. wanted: as YAML writes it. namespace: `default` when it names none.

    Raises EditRefused when the object is not in the text, or its spec is no mapping.
    """
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        if not isinstance(document, yaml.MappingNode) or not _is(document, kind, namespace, name):
            continue
        spec = _find(document, "spec")
        if spec is None:
            raise EditRefused(f"{kind} {namespace}/{name} has no spec. Write `spec: {{{field}: {wanted}}}` into it.")
        if not isinstance(spec, yaml.MappingNode):
            raise EditRefused(f"The spec of {kind} {namespace}/{name} is no mapping. Correct it by hand.")
        current = _find(spec, field)
        if current is not None:
            return text[: current.start_mark.index] + wanted + text[current.end_mark.index :]
        return _insert(text, spec, f"{field}: {wanted}")
    raise EditRefused(f"There is no {kind} {namespace}/{name} in this file.")


def remove(text: str, *, kind: str, namespace: str, name: str) -> str:
    """Return the text without the document of one object; empty when nothing else was in it.

    Raises EditRefused when the object is not in the text.
    """
    starts = (e.start_mark for e in yaml.parse(text, Loader=yaml.SafeLoader) if isinstance(e, yaml.DocumentStartEvent))
    marks = [start.index for start in starts if start is not None]
    documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    for index, document in enumerate(documents):
        if not isinstance(document, yaml.MappingNode) or not _is(document, kind, namespace, name):
            continue
        if sum(isinstance(each, yaml.MappingNode) for each in documents) == 1:
            return ""
        # Comments before a document without `---` of its own stay with the first one.
        begins = marks[index] if index else 0
        ends = marks[index + 1] if index + 1 < len(marks) else len(text)
        left = text[:begins] + text[ends:]
        return left.removeprefix("---").lstrip("\n") if not index else left
    raise EditRefused(f"There is no {kind} {namespace}/{name} in this file.")


def _insert(text: str, mapping: yaml.MappingNode, entry: str) -> str:
    """Put `key: value` in front of a mapping's first entry, in its style and indent."""
    if mapping.flow_style:
        at = mapping.start_mark.index + 1  # behind the brace
        return text[:at] + (f"{entry}, " if mapping.value else entry) + text[at:]
    first = mapping.value[0][0]  # a block mapping has at least one
    at, indent = first.start_mark.index, " " * first.start_mark.column
    return f"{text[:at]}{entry}\n{indent}{text[at:]}"


def _is(document: yaml.MappingNode, kind: str, namespace: str, name: str) -> bool:
    metadata = _find(document, "metadata")
    if not isinstance(metadata, yaml.MappingNode) or _text(document, "kind") != kind:
        return False
    return _text(metadata, "name") == name and (_text(metadata, "namespace") or "default") == namespace


def _find(mapping: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for node, value in mapping.value if node.value == key), None)


def _text(mapping: yaml.MappingNode, key: str) -> str:
    found = _find(mapping, key)
    return str(found.value) if isinstance(found, yaml.ScalarNode) else ""
