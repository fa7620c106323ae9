"""The reference page of our kinds: every field with its type, bounds, default and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nexus_core.model.crds.definitions import build_crds

HEAD = """# Custom resources

Generated from the models by `make generate`.
`kubectl explain` shows the same texts.
Group `nexus.dev`, version `v1alpha1`, category `nexus` (`kubectl get nexus --all-namespaces`).
"""


def build_reference() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for kind, crd in build_crds().items():
        names = crd["spec"]["names"]
        version = crd["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]
        columns = ", ".join(column["name"] for column in version["additionalPrinterColumns"])
        parts.append(f"\n## {kind}\n\n{schema['description']}\n")
        parts.append(
            f"\n`{names['plural']}` (`{names['shortNames'][0]}`), {crd['spec']['scope'].lower()}. Columns: {columns}.\n"
        )
        for section in ("spec", "status"):
            parts.append(f"\n### {kind}.{section}\n\n| field | type | meaning |\n|---|---|---|\n")
            parts.extend(_rows(schema["properties"][section], ""))
        rules = [*_rules(schema, ""), *_rules(schema["properties"]["spec"], ".spec")]
        if rules:
            parts.append(f"\n### Rules of {kind}\n\n| where | the API server's answer |\n|---|---|\n")
            parts.extend(f"| `{where or '.'}` | {_cell(message)} |\n" for where, message in rules)
    return "".join(parts)


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        inner = field.get("items", field.get("additionalProperties", field))
        text = field.get("description", inner.get("description", ""))
        notes = [*(["**Required.**"] if name in required else []), text, *_bounds(field)]
        yield f"| `{here}` | {_type(field)} | {_cell(' '.join(note for note in notes if note))} |\n"
        suffix = "[]" if "items" in field else ""
        yield from _rows(inner, here + suffix)


def _type(field: Mapping[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    return str(field["type"])


def _bounds(field: Mapping[str, Any]) -> Iterator[str]:
    values = field.get("enum") or field.get("items", {}).get("enum")
    if values:
        yield f"One of {', '.join(f'`{v}`' for v in values)}."
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        yield f"{'More than ' if field.get('exclusiveMinimum') else ''}{low:g} to {high:g}."
    if "maxItems" in field:
        yield f"At most {field['maxItems']}."
    if "default" in field:
        yield f"Default `{json.dumps(field['default'])}`."


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path + rule.get("fieldPath", ""), rule["message"]
    if path:
        for name, field in schema.get("properties", {}).items():
            yield from _rules(field, f"{path}.{name}")
        if "items" in schema:
            yield from _rules(schema["items"], f"{path}[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
