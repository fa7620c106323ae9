"""Rounds to medians and ratios, and the JSON file of a scenario. Pure but for `write` and `machine`."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "results"
Round = Mapping[str, float | str]
"""One measurement: `proxy`, and figures by name. The name ends with the unit."""


def medians(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Return each proxy's median of each figure, in the order of the first round. `errors` are summed."""
    found: dict[str, dict[str, float]] = {}
    for proxy in dict.fromkeys(str(each["proxy"]) for each in rounds):
        own = [each for each in rounds if each["proxy"] == proxy]
        names = [name for name, value in own[0].items() if not isinstance(value, str)]
        found[proxy] = {name: _round(statistics.median(float(each[name]) for each in own)) for name in names}
        if "errors" in found[proxy]:
            found[proxy]["errors"] = sum(float(each["errors"]) for each in own)
    return found


def ratios(found: Mapping[str, Mapping[str, float]], reference: str) -> dict[str, dict[str, float]]:
    """Return each figure as a multiple of the reference's median; figures that are zero there are left out."""
    if reference not in found:
        return {}
    base = found[reference]
    return {
        proxy: {name: round(value / base[name], 3) for name, value in figures.items() if base.get(name)}
        for proxy, figures in found.items()
    }


def _round(value: float) -> float:
    """Keep five digits: more is noise."""
    return float(f"{value:.5g}")


def report(scenario: str, rounds: Sequence[Round], options: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Return what is kept of a scenario: when, where, how, medians, ratios, and every round."""
    found = medians(rounds)
    return {
        "scenario": scenario,
        "measured_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "options": dict(options),
        "reference": reference,
        "medians": found,
        "ratios": ratios(found, reference),
        "rounds": [dict(each) for each in rounds],
    }


def _python() -> str:
    """Return the version of the Python that runs Nexus."""
    program = os.environ.get("NEXUS_BENCH_NEXUS")
    python = str(Path(program).with_name("python")) if program else sys.executable
    asked = "import platform; print(platform.python_version())"
    return subprocess.run((python, "-c", asked), capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, kernel, Python, load and commit."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "cpu": model,
        "cpu_count": os.cpu_count(),
        "kernel": platform.release(),
        "python": _python(),
        "load_average": round(os.getloadavg()[0], 2),
        "commit": commit.stdout.strip(),
    }


def write(kept: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write the JSON file of a scenario, whole. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kept['scenario']}.json"
    fresh = path.with_suffix(".new")
    rounds = ",\n".join(f"    {json.dumps(each)}" for each in kept["rounds"])
    body = json.dumps({**kept, "rounds": []}, indent=2)
    fresh.write_text(body.replace('"rounds": []', f'"rounds": [\n{rounds}\n  ]') + "\n")
    fresh.rename(path)
    return path
