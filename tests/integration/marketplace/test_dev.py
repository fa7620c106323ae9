"""`nexus plugin dev`: a gateway that follows the plugin's sources."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nexus_cli.errors import UserError
from nexus_cli.plugins import dev

from tests.integration.marketplace.test_commands import nexus

pytestmark = pytest.mark.timeout(120)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[str, Path]]]:
    """Run `nexus plugin dev` with these arguments; returns the gateway's address and the command's log."""
    running = []

    def run(*arguments: str) -> tuple[str, Path]:
        listen, admin = free_ports(2)
        log = tmp_path / "dev.log"
        with log.open("wb") as file:
            where = ("--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}")
            command = [sys.executable, "-m", "nexus_cli", "plugin", "dev", *arguments, *where]
            running.append(subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file))
        return f"http://127.0.0.1:{listen}/", log

    yield run
    for process in running:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def header(url: str, name: str, deadline_s: float, wanted: Callable[[str | None], bool]) -> float:
    """Ask until a response's header is as wanted; return after how many seconds."""
    began = time.monotonic()
    seen: str | None = None
    while time.monotonic() - began < deadline_s:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                seen = response.headers.get(name)
                if wanted(seen):
                    return time.monotonic() - began
        except OSError as error:
            seen = str(error)
        time.sleep(0.05)
    raise AssertionError(f"{name} was last {seen!r}")


def test_each_save_is_followed_and_faults_leave_the_last_good_version(
    start: Callable[..., tuple[str, Path]], tmp_path: Path
) -> None:
    nexus("plugin", "new", "acme-demo", cwd=tmp_path)
    code = tmp_path / "acme-demo" / "acme_demo_plugin" / "plugin.py"
    url, log = start("acme-demo", "--config", json.dumps({"header": "x-acme-demo-mine"}))
    header(url, "x-acme-demo-mine", 40, lambda value: value == "hello")
    good = code.read_text()
    code.write_text(good.replace('"hello"', '"saved"'))
    header(url, "x-acme-demo-mine", 20, lambda value: value == "saved")
    code.write_text(good.replace("def on_response", "def on_respones"))
    deadline = time.monotonic() + 20
    while "Did you mean on_response?" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    header(url, "x-acme-demo-mine", 5, lambda value: value == "saved")
    code.write_text(good.replace('"hello"', '"mended"'))
    header(url, "x-acme-demo-mine", 20, lambda value: value == "mended")


def test_manifests_of_ones_own_get_the_plugin(start: Callable[..., tuple[str, Path]], tmp_path: Path) -> None:
    """Their NexusPlugin keeps its configuration and gets what is being worked on; processes run where their manifests are."""
    nexus("plugin", "new", "acme-demo", cwd=tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    (site / "hello.txt").write_text("hello")
    (port,) = free_ports(1)
    (site / "all.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: files, namespace: shop}\n"
        f"spec: {{type: http, process: {{command: [{sys.executable}, -m, http.server, '{port}', --bind, 127.0.0.1], port: {port}}}, "
        "health: {path: /}, expose: {path: /}}\n---\n"
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusPlugin\nmetadata: {name: demo, namespace: shop}\n"
        "spec: {marketplace: acme, plugin: acme-demo, version: '>=7', config: {header: x-acme-demo-theirs}}\n"
    )
    url, _ = start("acme-demo", "-f", "site")
    header(f"{url}hello.txt", "x-acme-demo-theirs", 40, lambda value: value == "hello")


def test_what_cannot_be_worked_on_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no plugin\.yaml"):
        dev.find_packages(tmp_path)
    ran = nexus("plugin", "dev", ".", "--config", "{", cwd=tmp_path)
    assert (ran.returncode, "--config is not JSON" in ran.stderr) == (2, True)
    ran = nexus("plugin", "dev", "nowhere", cwd=tmp_path)
    assert (ran.returncode, "nowhere is not a directory" in ran.stderr) == (2, True)


def test_installed_plugins_are_found_by_their_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nexus("plugin", "new", "acme-demo", cwd=tmp_path)
    info = tmp_path / "acme-demo" / "acme_demo-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-demo\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[nexus.plugins]\nacme-demo = acme_demo_plugin.plugin:AcmeDemo\n")
    monkeypatch.syspath_prepend(str(tmp_path / "acme-demo"))
    assert (tmp_path / "acme-demo" / "acme_demo_plugin").resolve() in dev.find_packages(None)
