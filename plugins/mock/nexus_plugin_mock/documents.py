"""An OpenAPI document, its references resolved, its schemas in the words of JSON Schema 2020-12."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import PluginConfigError

_DATA = frozenset({"example", "examples", "default", "const", "enum", "value"})


class Document:
    """One document. content: of OpenAPI 3.1."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        """Raises PluginConfigError for another version."""
        version = str(content.get("openapi", ""))
        if not version.startswith(("3.0", "3.1")):
            raise PluginConfigError(
                f"{where}.openapi: {version!r} is not supported; convert the document to 3.0 or 3.1."
            )
        self.where = where
        self.content: dict[str, Any] = modern(content) if version.startswith("3.0") else dict(content)

    def resolve(self, node: Any) -> dict[str, Any]:
        """Return what a node refers to, or the node; an empty object for what is none. Raises PluginConfigError."""
        for _ in range(32):
            if not isinstance(node, dict):
                return {}
            reference = node.get("$ref")
            if not isinstance(reference, str):
                return node
            node = self._look_up(reference)
        raise PluginConfigError(f"{self.where}: $ref {reference!r} leads in a circle.")

    def _look_up(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise PluginConfigError(
                f"{self.where}: $ref {reference!r} leaves the document. Put what it names below components."
            )
        node: Any = self.content
        for part in reference[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or name not in node:
                raise PluginConfigError(f"{self.where}: $ref {reference!r} names nothing in the document.")
            node = node[name]
        return node


def modern(node: Any, *, data: bool = False) -> Any:
    """Return a part of an OpenAPI 3.0 document as 3.1 writes it: `nullable` and exclusive bounds."""
    if data or not isinstance(node, dict | list):
        return node
    if isinstance(node, list):
        return [modern(each) for each in node]
    made = {key: modern(value, data=key in _DATA) for key, value in node.items()}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if made.get(exclusive) is True and bound in made:
            made[exclusive] = made.pop(bound)
        elif isinstance(made.get(exclusive), bool):
            del made[exclusive]
    return made
