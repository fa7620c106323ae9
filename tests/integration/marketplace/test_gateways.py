"""A gateway with a plugin from each kind of place that it can read by itself; and without any of them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.integration.marketplace.conftest import Site
from tests.integration.marketplace.test_commands import nexus
from tests.integration.marketplace.test_dev import free_ports, header

pytestmark = pytest.mark.timeout(150)


@contextmanager
def up(folder: Path, data: Path) -> Iterator[str]:
    """Run `nexus up` on a directory; yields the gateway's address."""
    listen, admin = free_ports(2)
    command = [sys.executable, "-m", "nexus_cli", "up", str(folder), "--data-dir", str(data)]
    command += ["--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}"]
    with data.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{listen}/"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, data.with_suffix(".log").read_text()


def in_a_directory(root: Path, site: Site) -> str:
    return ""


def on_a_web_server(root: Path, site: Site) -> str:
    return f"{site.url}/"


@pytest.mark.parametrize("place", [in_a_directory, on_a_web_server])
def test_a_gateway_starts_again_without_the_marketplace(
    tmp_path: Path, site: Site, place: Callable[[Path, Site], str]
) -> None:
    assert nexus("plugin", "new", "acme-demo", cwd=tmp_path).returncode == 0
    published = nexus(
        "plugin", "publish", "acme-demo", "--key", "acme.pem", "--publisher", "acme", "--to", site.root, "--url", place(site.root, site),
        cwd=tmp_path,
    )  # fmt: skip
    assert published.returncode == 0, published.stderr
    folder = tmp_path / "site"
    folder.mkdir()
    echo = {"command": [sys.executable, "-m", "nexus_cli.plugins.echo"]}
    service = {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusService",
        "metadata": {"name": "echo"},
        "spec": {"type": "http", "process": echo, "health": {"path": "/"}, "expose": {"path": "/"}},
    }
    plugin = {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusPlugin",
        "metadata": {"name": "acme-demo"},
        "spec": {"marketplace": "acme"},
    }
    (folder / "all.yaml").write_text(yaml.safe_dump_all([yaml.safe_load(published.stdout), service, plugin]))
    data = tmp_path / "data"
    with up(folder, data) as url:
        header(url, "x-acme-demo", 40, lambda value: value == "hello")
    for path in site.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with up(folder, data) as url:
        header(url, "x-acme-demo", 40, lambda value: value == "hello")
