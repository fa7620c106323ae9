"""Changes one field of a manifest's text and nothing else: comments, order and quotes stay. Pure."""

from __future__ import annotations

import yaml


class EditRefused(ValueError):
    """The text is not as it should be for this edit. The message says what to change by hand."""


def set_enabled(text: str, *, kind: str, namespace: str, name: str, enabled: bool) -> str:
    """Return the text with `spec.enabled` of one object set. namespace: of the object, `default` when it names none.

    Raises EditRefused when the object is not in the text, or its spec is no mapping.
    """
    wanted = "true" if enabled else "false"
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        if not isinstance(document, yaml.MappingNode) or not _is(document, kind, namespace, name):
            continue
        spec = _find(document, "spec")
        if spec is None:
            raise EditRefused(f"{kind} {namespace}/{name} has no spec. Write `spec: {{enabled: {wanted}}}` into it.")
        if not isinstance(spec, yaml.MappingNode):
            raise EditRefused(f"The spec of {kind} {namespace}/{name} is no mapping. Correct it by hand.")
        current = _find(spec, "enabled")
        if current is not None:
            return text[: current.start_mark.index] + wanted + text[current.end_mark.index :]
        return _insert(text, spec, f"enabled: {wanted}")
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
