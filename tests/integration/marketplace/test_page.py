"""docs/how-to/run-a-marketplace.md runs as it is written."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nexus_marketplace.publishing import public_key, read_key

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "run-a-marketplace.md"
STEP = re.compile(
    r"^<!-- file: (?P<path>\S+) -->\n```\w+\n(?P<content>.*?)^```\n"
    r"|^```sh(?P<background> background)?\n(?P<command>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.timeout(180)
def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    running, ran = [], 0
    try:
        for step in STEP.finditer(PAGE.read_text().replace("127.0.0.1:9000", f"127.0.0.1:{port}")):
            if step["path"]:
                text = step["content"]
                for word, name in (("PUBLISHER-KEY", "acme.pem"), ("ROOT-KEY", "root.pem")):
                    text = text.replace(word, public_key(read_key(tmp_path / name)))
                (tmp_path / step["path"]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / step["path"]).write_text(text)
            elif step["background"]:
                running.append(subprocess.Popen(f"exec {step['command']}", shell=True, cwd=tmp_path, env=environment))
                _listens(port)
            else:
                ran += 1
                done = subprocess.run(
                    step["command"],
                    shell=True,
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 0, (step["command"], done.stderr)
                assert (step["output"] or "").strip() in done.stdout, done.stdout
        assert ran == 8
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def _listens(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
