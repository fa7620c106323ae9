"""docs/how-to/write-a-plugin.md runs as it is written."""

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

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs" / "how-to" / "write-a-plugin.md"
STEP = re.compile(
    r"^<!-- file: (?P<path>\S+) -->\n```\w+\n(?P<content>.*?)^```\n"
    r"|^```sh(?P<background> background)?\n(?P<command>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
PORTS = ("8080", "8081", "9000", "9001")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def background() -> Iterator[Callable[..., None]]:
    """Start a command that runs to the end of the test; its group is ended then."""
    running: list[subprocess.Popen[bytes]] = []

    def start(command: str, **options: Any) -> None:
        running.append(subprocess.Popen(f"exec {command}", shell=True, start_new_session=True, **options))

    yield start
    for process in reversed(running):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def said(command: str, output: str, **options: Any) -> str:
    """Return what the command printed once it holds each line of `output` in order; `…` is anything. Tries for a while:
    what runs in the background may still be starting."""
    wanted = ".*?".join(re.escape(line.strip("…")).replace("…", ".*?") for line in output.splitlines())
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False, **options)
        if done.returncode == 0 and re.search(wanted, done.stdout, re.DOTALL):
            return str(done.stdout)
        assert time.monotonic() < deadline, f"{command}\nwants:\n{output}\ngot:\n{done.stdout}{done.stderr}"
        time.sleep(0.2)


def test_the_plugin_of_the_page_runs_as_the_page_says(
    tmp_path: Path, background: Callable[..., None], free_ports: Callable[[int], list[str]]
) -> None:
    """With this test's directory and ports in the place of the reader's."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")},
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NEXUS_UP_LISTEN": f"127.0.0.1:{ports['8080']}",
        "NEXUS_UP_ADMIN": f"127.0.0.1:{ports['8081']}",
    }
    where: dict[str, Any] = {"cwd": tmp_path, "env": environment}
    key, ran = "", 0

    def here(text: str) -> str:
        for theirs, ours in ports.items():
            text = re.sub(rf"(?<=[: \"]){theirs}(?=[/\" }}\n])", ours, text)
        return text.replace("PASTE-IT-HERE", key)

    for step in STEP.finditer(PAGE.read_text()):
        if step["path"]:
            path = tmp_path / step["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(here(step["content"]))
        elif step["background"]:
            with (tmp_path / "background.log").open("ab") as log:
                background(here(step["command"]), stdout=log, stderr=log, **where)
        else:
            ran += 1
            printed = said(here(step["command"]), step["output"] or "", **where)
            if (found := re.search(r"publicKey: ([A-Za-z0-9+/=]+)", printed)) is not None:
                key = found[1]
    assert ran == 5
    assert key
