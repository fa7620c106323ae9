"""Documents (`<case>.in.yaml`, one per service, in order of a YAML stream) → schema and notes (`<case>.out.graphql`).

`pytest --accept tests/golden/graphql` rewrites the outputs; the diff is the review.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from graphql import build_schema, print_schema
from nexus_graphql import schema

HERE = Path(__file__).parent
CASES = sorted(p.name.removesuffix(".in.yaml") for p in HERE.glob("*.in.yaml"))


def translate(services: list[tuple[str, Any]]) -> str:
    models = [schema.read(name, document) for name, document in services]
    notes = [f"# {m.service} {note}" for m in models for note in m.notes]
    return "\n".join([*notes, *([""] if notes else []), _without_own(print_schema(schema.build(models))), ""])


def _without_own(sdl: str) -> str:
    """Leave out what every schema has, so that a case shows its own lines alone."""
    blocks = sdl.split("\n\n")
    out, text = [], "\n\n".join(blocks)
    for part in _definitions(text):
        if "type _Service " in part or "enum _ServiceState" in part or "\nscalar " in f"\n{part}":
            continue
        out.append(part)
    return "\n\n".join(out)


def _definitions(sdl: str) -> list[str]:
    found: list[str] = []
    for block in sdl.split("\n\n"):
        if found and (block.startswith((" ", "}")) or not _opens(block)):
            found[-1] += f"\n\n{block}"
        else:
            found.append(block)
    return found


def _opens(block: str) -> bool:
    return block.startswith(('"', "type ", "input ", "enum ", "scalar ", "schema "))


def load(case: str) -> list[tuple[str, Any]]:
    documents = list(yaml.safe_load_all((HERE / f"{case}.in.yaml").read_text()))
    return [(d["service"], d["document"]) for d in documents]


@pytest.mark.parametrize("case", CASES)
def test_documents_become_this_schema(case: str, request: pytest.FixtureRequest) -> None:
    found, place = translate(load(case)), HERE / f"{case}.out.graphql"
    if request.config.getoption("--accept", default=False):
        place.write_text(found)
    assert found == place.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_services_does_not_show(case: str) -> None:
    services = load(case)
    whole = print_schema(schema.build([schema.read(*s) for s in services]))
    assert print_schema(schema.build([schema.read(*s) for s in reversed(services)])) == whole
    build_schema(whole)  # what was printed is a schema for others too


def test_there_are_as_many_wrong_inputs_as_right() -> None:
    wrong = [c for c in CASES if c.startswith("wrong-")]
    assert len(wrong) >= len(CASES) // 2
