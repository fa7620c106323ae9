"""Every reason that translation and statuses can give stands in a golden output: of a wrong input, beside the right ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nexus_core.problems.catalogue import REASONS

HERE = Path(__file__).parent
CONDITIONS = (
    "Accepted", "ResolvedRefs", "WorkloadReady", "Programmed", "OverlappingTLSConfig", "InsecureFrontendValidationMode",
    "nexus.dev/UnsupportedFields", "nexus.dev/Shadowed",
)  # fmt: skip
"""Those that are made of objects alone; the others tell of files, requests and what gateways sampled."""
FROM_GATEWAYS = ("HostRequirementMissing", "PythonIncompatible", "WheelInvalid")
"""Why a plugin does not run in a gateway, under names that do not say that they are of plugins."""
GIVEN = [
    # Why a plugin does not run, a gateway says: `operator/test_status.py` passes it on, `tests/integration/gateway` makes it happen.
    reason
    for reason, info in REASONS.items()
    if info.condition in CONDITIONS
    and not (info.condition == "Programmed" and (reason.startswith("Plugin") or reason in FROM_GATEWAYS))
]


@pytest.fixture(scope="module")
def given() -> set[str]:
    """The reasons in all outputs."""
    outputs = [path.read_text() for room in ("core", "operator") for path in sorted((HERE / room).rglob("*.out.yaml"))]
    return {found for text in outputs for found in re.findall(r"\b[A-Z]\w+", text)}


@pytest.mark.parametrize("reason", GIVEN)
def test_a_golden_output_gives(reason: str, given: set[str]) -> None:
    assert reason in given, f"no *.out.yaml below {HERE.name} shows {reason}"
