"""One OpenAPI document → one `ServiceModel`. Total: a broken document gives a model without operations and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nexus_graphql.schema import operations
from nexus_graphql.schema.pointers import Document
from nexus_graphql.schema.shapes import Named, Note, ObjectShape, ServiceModel
from nexus_graphql.schema.types import Types

MOST_NOTES = 50


def read(service: str, document: Any) -> ServiceModel:
    """Return what `service` offers. document: parsed JSON of any shape; never raises."""
    problem = _check(document)
    if problem is not None:
        return ServiceModel(service, "", (), {}, (problem,))
    types = Types(Document(document))
    info = document.get("info")
    title = info.get("title") if isinstance(info, Mapping) else None
    found = tuple(operations.read(service, types))
    _open_circles(types)
    notes = tuple(types.notes)
    if len(notes) > MOST_NOTES:
        rest = Note("", f"{len(notes) - MOST_NOTES} more notes.", "Mend the first ones and look again.")
        notes = (*notes[:MOST_NOTES], rest)
    return ServiceModel(service, title if isinstance(title, str) else "", found, types.shapes, notes)


def _open_circles(types: Types) -> None:
    """Make required input fields optional where they lead in a circle: nobody could ever write such a value.

    GraphQL forbids them (spec 3.10, circular references); JSON Schema does not notice.
    """
    done: set[str] = set()
    for start in list(types.shapes):
        stack: list[tuple[str, int]] = [(start, 0)]
        trail = {start}
        while stack:
            key, index = stack.pop()
            shape = types.shapes[key]
            if key in done or not isinstance(shape, ObjectShape) or not shape.is_input or index >= len(shape.fields):
                done.add(key)
                trail.discard(key)
                continue
            stack.append((key, index + 1))
            field = shape.fields[index]
            if field.ref.nullable or not isinstance(field.ref.type, Named):
                continue
            target = field.ref.type.key
            if target in trail:
                eased = replace(field, ref=replace(field.ref, nullable=True))
                fields = (*shape.fields[:index], eased, *shape.fields[index + 1 :])
                types.shapes[key] = replace(shape, fields=fields)
                types.note(key.partition(":")[2], f"The required property {field.source!r} leads in a circle.",
                           "It is optional here; drop it from required.")  # fmt: skip
            elif target not in done:
                trail.add(target)
                stack.append((target, 0))


def _check(document: Any) -> Note | None:
    if not isinstance(document, Mapping):
        return Note("", "The document is not a JSON object.", "Serve an OpenAPI 3.0 or 3.1 document.", fatal=True)
    version = document.get("openapi")
    if "swagger" in document:
        return Note("/swagger", "The document is Swagger 2.0.", "Convert it to OpenAPI 3.0 or 3.1.", fatal=True)
    if not isinstance(version, str) or not version.startswith(("3.0", "3.1")):
        return Note("/openapi", f"The version {version!r} is not supported.",
                    "Write openapi: 3.0.x or 3.1.x.", fatal=True)  # fmt: skip
    paths = document.get("paths", {})
    if not isinstance(paths, Mapping):
        return Note("/paths", "paths is not an object.", "Write paths: {'/orders': {get: …}}.", fatal=True)
    return None
