"""Runs a page of the documentation as it is written, with a test's directory and ports in the place of the reader's.

A page's steps are its files (`<!-- file: PATH -->` before a fence), commands (```sh, with what they print in ```text behind), commands in
the background (```sh background) and the end of all these (```sh stop).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

STEP = re.compile(
    r"^<!-- file: (?P<path>\S+) -->\n```\w+\n(?P<content>.*?)^```\n"
    r"|^```sh(?P<kind> background| stop)?[^\n]*\n(?P<command>.*?)^```\n(?:\n?```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
PATIENCE_S = 45.0


class Walk:
    """One reader. key: the last public key that was printed. ran: commands so far, those in the background not counted."""

    def __init__(self, directory: Path, ports: Mapping[str, str]) -> None:
        """ports: ours by the page's."""
        self.key = ""
        self.ran = 0
        self._directory = directory
        self._ports = ports
        self._running: list[subprocess.Popen[bytes]] = []
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")},
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(directory),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }
        if "8080" in ports:
            self._env |= {
                "NEXUS_UP_LISTEN": f"127.0.0.1:{ports['8080']}",
                "NEXUS_UP_ADMIN": f"127.0.0.1:{ports['8081']}",
            }
            for command in ("LIST", "DESCRIBE", "TOP", "LOGS"):
                self._env[f"NEXUS_PLUGIN_{command}_ADMIN"] = f"http://127.0.0.1:{ports['8081']}"

    def walk(self, page: Path) -> None:
        """Take every step. Raises AssertionError with what a command printed when it is not what the page says."""
        for step in STEP.finditer(page.read_text()):
            if step["path"]:
                path = self._directory / step["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._here(step["content"]))
            elif step["kind"] == " background":
                self._start(self._here(step["command"]))
            elif step["kind"] == " stop":
                self.stop()
            else:
                self.ran += 1
                printed = self._until_said(self._here(step["command"]), step["output"] or "")
                if (found := re.search(r"publicKey: ([A-Za-z0-9+/=]+)", printed)) is not None:
                    self.key = found[1]

    def stop(self) -> None:
        """End what runs in the background, the last one first."""
        while self._running:
            process = self._running.pop()
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, command: str) -> None:
        with (self._directory / "background.log").open("ab") as log:
            process = subprocess.Popen(
                f"exec {command}",
                shell=True,
                start_new_session=True,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._env,
            )
        self._running.append(process)

    def _here(self, text: str) -> str:
        for theirs, ours in self._ports.items():
            text = re.sub(rf"(?<=[: \"]){theirs}(?=[/\" }}\n])", ours, text)
        return text.replace("PASTE-IT-HERE", self.key)

    def _until_said(self, command: str, output: str) -> str:
        """Return what the command printed once it holds each line of `output` in order; `…` is anything. Tries for a while: what runs in
        the background may still be at it."""
        wanted = ".*?".join(re.escape(line.strip("…")).replace("…", ".*?") for line in output.splitlines())
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(
                command,
                shell=True,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=self._directory,
                env=self._env,
            )
            if done.returncode == 0 and re.search(wanted, done.stdout, re.DOTALL):
                return str(done.stdout)
            log = (self._directory / "background.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (
                f"{command}\nwants:\n{output}\ngot:\n{done.stdout}{done.stderr}\nin the background:\n{log}"
            )
            time.sleep(0.2)
