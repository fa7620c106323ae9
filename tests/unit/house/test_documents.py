"""The documents keep their word: links lead somewhere, named make targets exist, error pages are reachable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
SKIPPED = {".venv", ".git", "node_modules", ".pytest_cache"}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not SKIPPED & set(p.relative_to(ROOT).parts))
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text())
    targets = [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
    broken = [t for t in targets if t.partition("#")[0] and not (document.parent / t.partition("#")[0]).exists()]
    assert not broken, f"{document.relative_to(ROOT)} links to what is not there: {broken}"


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (str(document.relative_to(ROOT)), target)
        for document in DOCUMENTS
        for target in re.findall(r"(?:`|^\s*\$?\s*)make ([a-z][a-z0-9-]*)", document.read_text(), re.MULTILINE)
    }
    assert not {(where, target) for where, target in named if target not in targets}


def test_the_operator_folder_is_no_package() -> None:
    """With the repository root on `sys.path` it would shadow the standard library's `operator`."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_every_change_fragment_says_its_kind() -> None:
    kinds = {"feature", "fix", "breaking", "security", "docs"}
    names = [path.name for path in (ROOT / "changes").glob("*.md") if path.name != "README.md"]
    assert not [name for name in names if len(name.split(".")) != 3 or name.split(".")[1] not in kinds]
