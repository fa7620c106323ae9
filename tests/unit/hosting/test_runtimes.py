"""What tells runtimes apart for which different releases are fit."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from nexus_hosting import runtimes
from nexus_hosting.runtimes import runtime_digest


@pytest.fixture(autouse=True)
def afresh() -> None:
    runtime_digest.cache_clear()


def test_another_distribution_or_version_makes_another_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [runtime_digest()]
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path), str(tmp_path / "gone"), str(tmp_path / "plugin.zip")])
    for made in ("redis-5.0.dist-info", "redis-6.0.dist-info"):
        (tmp_path / made).mkdir()
        runtime_digest.cache_clear()
        found.append(runtime_digest())
    runtime_digest.cache_clear()
    assert found[-1] == runtime_digest()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    runtime_digest.cache_clear()
    found.append(runtime_digest())
    monkeypatch.setattr(runtimes, "platform_tags", lambda: iter(["linux_x86_64", "musllinux_1_2_x86_64"]))
    runtime_digest.cache_clear()
    found.append(runtime_digest())
    assert len(set(found)) == 5
    assert all(len(each) == 16 for each in found)
