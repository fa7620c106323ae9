"""What the runner installs is one state of the checkout."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from pathlib import Path

import pytest
from nexus_conformance import installation
from nexus_testbed import images, places


@pytest.mark.timeout(120)  # byte code of the whole product
def test_the_frozen_product_is_what_its_image_runs(tmp_path: Path) -> None:
    """An edit of the checkout after it is not seen; byte code is there for containers, whose own is gone with them."""
    image = installation.freeze(tmp_path / "product")
    assert image.needs == (str(tmp_path / "product"),)
    assert image.argv == images.defaults()[installation.NEXUS].argv
    python = str(places.REPOSITORY / ".venv" / "bin" / "python")
    found = subprocess.run(
        [python, "-c", "import nexus_gateway, nexus_operator, nexus_core as c; print(c.__file__, c.__spec__.cached)"],
        env={**os.environ, **image.env}, capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    source, cached = found.stdout.split()
    assert source == str(tmp_path / "product" / "core" / "nexus_core" / "__init__.py")
    assert Path(cached).exists()


def test_an_image_keeps_what_it_needs_when_it_is_written_down(tmp_path: Path) -> None:
    table = {"^a$": images.Image(("a",), {"B": "c"}, "/d", ("/e", "/f")), **images.defaults()}
    images.save(tmp_path / "images.json", table)
    assert images.load(tmp_path / "images.json") == table


def test_addresses_for_the_test_of_static_addresses_are_what_they_are_called() -> None:

    pool = ipaddress.ip_network(places.LOADBALANCER_CIDR)
    assert ipaddress.ip_address(installation.USABLE_ADDRESS) in pool
    assert ipaddress.ip_address(installation.UNUSABLE_ADDRESS) not in pool


def test_the_newest_change_is_that_of_the_product(tmp_path: Path) -> None:
    for name, at in (
        ("core/a.py", 100),
        ("charts/nexus/values.yaml", 300),
        ("docs/b.md", 900),
        ("core/__pycache__/a.pyc", 800),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (at, at))
    assert installation.newest_change(tmp_path) == 300
