"""Every decision can be found: the list in `docs/decisions/README.md` is the folder, and the architecture page leads there."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(path.name for path in (DOCS / "decisions").glob("*.md") if path.name != "README.md")


def test_the_list_of_decisions_is_complete_and_in_order() -> None:
    listed = re.findall(
        r"^\| \[(\d{4})\]\((\S+\.md)\) \| \S", (DOCS / "decisions" / "README.md").read_text(), re.MULTILINE
    )
    assert [page for _, page in listed] == PAGES
    assert all(page.startswith(f"{number}-") for number, page in listed)


def test_no_number_is_given_twice() -> None:
    numbers = [page[:4] for page in PAGES]
    assert len(set(numbers)) == len(numbers), numbers


def test_the_architecture_page_leads_to_the_list_and_to_pages_that_are_there() -> None:
    text = (DOCS / "explanation" / "architecture.md").read_text()
    assert "](../decisions/README.md)" in text
    for page in re.findall(r"\]\(\.\./decisions/([^)]+)\)", text):
        assert (DOCS / "decisions" / page).exists(), page
