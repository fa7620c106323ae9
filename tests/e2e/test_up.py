"""How `nexus up` starts, refuses to start, and stops."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_drains_and_leaves_no_process(
    start: Callable[..., Any], shop_copy: Path, is_alive: Callable[[int], bool], number: signal.Signals
) -> None:
    running = start(shop_copy).wait_started()
    children = running.pids()
    assert len(children) >= 7
    assert running.stop(number) == 0
    assert [pid for pid in children if is_alive(pid)] == []
    with pytest.raises(OSError, match="refused"):
        running.get("/catalog/items")
    assert (shop_copy / ".nexus" / "logs" / "shop-orders.log").read_text()


def test_kill_9_of_nexus_up_leaves_no_process(
    start: Callable[..., Any], tmp_path: Path, is_alive: Callable[[int], bool], wait_for: Callable[..., Any]
) -> None:
    """Neither the services, nor what they started in turn."""
    directory = tmp_path / "app"
    directory.mkdir()
    grandchild = tmp_path / "grandchild"
    program = (
        "import subprocess, http.server, os\n"
        f"child = subprocess.Popen(['sleep', '600']); open({str(grandchild)!r}, 'w').write(str(child.pid))\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    (directory / "program.py").write_text(program)
    (directory / "app.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: app}\n"
        "spec: {process: {command: [python, program.py]}, expose: {path: /app}}\n"
    )
    running = start(directory).wait_started()
    assert running.report["ready"], running.report
    pids = [*running.pids(), int(grandchild.read_text())]
    assert all(is_alive(pid) for pid in pids)
    running.stop(signal.SIGKILL)
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "all are gone", 10)


def test_a_second_signal_stops_at_once(
    start: Callable[..., Any], tmp_path: Path, is_alive: Callable[[int], bool], wait_for: Callable[..., Any]
) -> None:
    """A service that ignores SIGTERM holds the first Ctrl-C up, not the second."""
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "program.py").write_text(
        "import http.server, os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    (directory / "app.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: app}\n"
        "spec: {process: {command: [python, program.py]}}\n"
    )
    running = start(directory).wait_started()
    children = running.pids()
    running.process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in running.errors.read_text(), "it is stopping")
    time.sleep(0.5)  # later than what counts as the same signal
    assert running.process.poll() is None
    began = time.monotonic()
    assert running.stop(signal.SIGINT) == 130
    assert time.monotonic() - began < 5
    wait_for(lambda: not any(is_alive(pid) for pid in children), "all are gone", 10)


def test_a_service_that_cannot_run_is_shown_and_the_others_serve(start: Callable[..., Any], tmp_path: Path) -> None:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "app.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: good}\n"
        "spec: {process: {command: [python, -m, shop_catalog]}, expose: {path: /good, rewritePrefix: /}}\n---\n"
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: bad}\n"
        "spec: {process: {command: [no-such-program]}, expose: {path: /bad}}\n"
    )
    running = start(directory).wait_started()
    services = {each["service"]: each["replicas"][0] for each in running.report["services"]}
    assert not running.report["ready"]
    assert services["default/good"]["state"] == "ready"
    assert services["default/bad"]["state"] in ("crash loop", "restarting", "starting")
    assert "cannot run 'no-such-program'" in running.errors.read_text()
    assert running.get("/good/items")[0] == 200


def one_line(done: Any) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines: list[str] = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    return lines[-1]


def test_a_port_in_use_names_who_has_it(nexus: Callable[..., Any], shop_copy: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = one_line(nexus("up", str(shop_copy), "--listen", f"127.0.0.1:{port}"))
    assert f"Port 127.0.0.1:{port} cannot be used" in line
    assert f"process {os.getpid()} (" in line
    assert "--listen" in line


def test_a_missing_directory_is_one_line(nexus: Callable[..., Any], tmp_path: Path) -> None:
    line = one_line(nexus("up", str(tmp_path / "nope")))
    assert "does not exist" in line
    assert "examples/shop" in line


def test_a_directory_without_manifests_is_one_line(nexus: Callable[..., Any], tmp_path: Path) -> None:
    assert "holds no manifests" in one_line(nexus("up", str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: [", "InvalidYaml"),
        (
            "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: a}\nspec: {proces: {}}\n",
            ".spec.proces",
        ),
    ],
)
def test_a_broken_manifest_starts_nothing(nexus: Callable[..., Any], shop_copy: Path, text: str, says: str) -> None:
    (shop_copy / "broken.yaml").write_text(text)
    done = nexus("up", str(shop_copy))
    assert "nothing was started" in one_line(done)
    assert says in done.stderr
    assert "broken.yaml" in done.stderr


def test_two_on_one_data_directory_are_refused(
    start: Callable[..., Any], nexus: Callable[..., Any], tmp_path: Path
) -> None:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "app.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: app}\n"
        "spec: {process: {command: [python, -m, shop_catalog]}}\n"
    )
    running = start(directory).wait_started()
    line = one_line(nexus("up", str(directory), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"))
    assert f"process {running.process.pid}" in line
