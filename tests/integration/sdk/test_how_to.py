"""The code of `docs/how-to/write-a-service.md` runs as it stands there, and the reference names every setting."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def blocks_of(page: Path) -> dict[str, str]:
    found = re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
    return dict(found)


async def test_the_service_of_the_how_to_passes_the_test_of_the_how_to() -> None:
    blocks = blocks_of(ROOT / "docs/how-to/write-a-service.md")
    names: dict[str, Any] = {"__name__": "quotes"}
    for part in ("service", "test"):
        exec(compile(blocks[part], part, "exec"), names)
    await names["test_a_quote"]()


@pytest.mark.parametrize(
    ("module", "pattern"),
    [("settings.py", r"\"((?:NEXUS|OTEL_EXPORTER|OTEL_TRACES_SAMPLER|PORT)\w*)\""), ("metrics.py", r"\"(nexus_\w+)\"")],
)
def test_the_reference_names_every_setting_and_metric(module: str, pattern: str) -> None:
    names = set(re.findall(pattern, (ROOT / "sdk/nexus_sdk" / module).read_text()))
    page = (ROOT / "docs/reference/sdk.md").read_text()
    assert len(names) > 5
    assert {name for name in names if name not in page} == set()
