"""The guardian's end in this process: which process groups must not outlive it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path


class Guard:
    """Runs `guardian.py` beside us with a pipe that closes when we are gone, however we go."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py"))],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Kill this process group if we go."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """It ended; its number may become somebody else's."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # killed by somebody: the launcher's signal still guards
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def close(self) -> None:
        """All groups have ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
