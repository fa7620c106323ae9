"""JSON pointers (RFC 6901) and `$ref` inside one OpenAPI document. Remote references are not followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


class Unresolved(Exception):
    """A reference leads nowhere. The text says what is wrong with it."""


def join(at: str, *keys: str | int) -> str:
    return at + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


class Document:
    """A parsed document with its references resolved on demand."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root

    def resolve(self, node: Any, at: str) -> tuple[Any, str]:
        """Return the node behind `$ref` (through chains of them) and its pointer; `node` itself without one.

        Raises Unresolved for a remote reference, a missing target or a chain that never ends.
        """
        seen: set[str] = set()
        while isinstance(node, Mapping) and isinstance(ref := node.get("$ref"), str):
            if ref in seen:
                raise Unresolved(f"The reference {ref!r} leads back to itself.")
            seen.add(ref)
            node, at = self.lookup(ref), ref[1:]
        return node, at

    def lookup(self, ref: str) -> Any:
        if ref != "#" and not ref.startswith("#/"):
            raise Unresolved(f"The reference {ref!r} points outside of the document.")
        node: Any = self.root
        for token in ref[2:].split("/") if ref != "#" else ():
            key = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(node):
                node = node[int(key[:9])]
            else:
                raise Unresolved(f"The reference {ref!r} points to nothing.")
        return node
