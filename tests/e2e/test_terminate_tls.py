"""The pages of docs/how-to on TLS, TCP and UDP run as they are written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
STEP = re.compile(
    r"^<!-- file: (?P<path>\S+) -->\n```\w+\n(?P<content>.*?)^```\n"
    r"|^```sh(?P<background> background)?\n(?P<command>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
PORTS = ("8080", "8081", "8443", "9000")
BACKEND_PORTS = ("8080", "8081", "9443")
MORE_PORTS = (*PORTS, "5353", "5432", "9001", "9443")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def said(command: str, output: str, **where: Any) -> None:
    """Run the command until it succeeds and prints each line of `output` somewhere: what runs in the background may be starting."""
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=False, **where)
        if done.returncode == 0 and all(line in done.stdout for line in output.splitlines()):
            return
        assert time.monotonic() < deadline, f"{command}\nwants:\n{output}\ngot:\n{done.stdout}{done.stderr}"
        time.sleep(0.2)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("page", "theirs", "wanted"),
    [
        ("terminate-tls.md", PORTS, 7),
        ("route-tcp-udp-and-tls.md", MORE_PORTS, 5),
        ("ask-clients-for-certificates.md", PORTS, 7),
        ("call-a-backend-by-tls.md", BACKEND_PORTS, 5),
    ],
)
def test_the_page_runs_as_it_says(
    tmp_path: Path,
    running: list[subprocess.Popen[bytes]],
    free_ports: Callable[[int], list[str]],
    page: str,
    theirs: tuple[str, ...],
    wanted: int,
    workers: int,
) -> None:
    """With this test's directory and ports in the place of the reader's, alone and with workers."""
    ports = dict(zip(theirs, free_ports(len(theirs)), strict=True))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")},
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "NEXUS_WORKERS": str(workers),
    }  # fmt: skip
    where: dict[str, Any] = {"cwd": tmp_path, "env": environment}

    def here(text: str) -> str:
        for theirs, ours in ports.items():
            text = re.sub(rf"(?<=[: ]){theirs}(?=[:/\" \n,)}}])", ours, text)
        return text

    commands = 0
    for step in STEP.finditer((PAGES / page).read_text()):
        if step["path"]:
            path = tmp_path / step["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(here(step["content"]))
        elif step["background"]:
            with (tmp_path / "background.log").open("ab") as log:
                command = f"exec {here(step['command'])}"
                running.append(
                    subprocess.Popen(command, shell=True, start_new_session=True, stdout=log, stderr=log, **where)
                )
        else:
            commands += 1
            said(here(step["command"]), step["output"] or "", **where)
    assert commands == wanted
