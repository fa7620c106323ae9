"""The output of services: to a file each, bounded, and to the terminal with the service's name and colour in front."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)
KEPT_LINES = 20
MAX_LINE = 64 * 1024
MAX_FILE_BYTES = 10 * 1024 * 1024
_SHOWN_ELSEWHERE = {"time", "level", "logger", "message", "service", "namespace", "trace_id", "span_id", "stack"}


class Terminal:
    """Writes lines to stderr. While `held` nothing is written: services are starting and the progress is on the screen."""

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._coloured = self._stream.isatty()
        self._colours: dict[str, int] = {}
        self.held = True
        self.width = 12

    def say(self, text: str) -> None:
        """Write a line of `nexus up` itself, quiet or not."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def line(self, service: str, text: str) -> None:
        """Write a line of a service."""
        if self._quiet or self.held:
            return
        name = f"{service:<{self.width}} │"
        if self._coloured:
            colour = self._colours.setdefault(service.partition("-")[0], COLOURS[len(self._colours) % len(COLOURS)])
            name = f"\033[{colour}m{name}\033[0m"
        self.say(f"{name} {text}")


def render_line(raw: str) -> str:
    """Return a log line for people: JSON of the SDK as `level message key=value`, anything else as it is."""
    if not raw.startswith("{"):
        return raw
    try:
        fields: Any = json.loads(raw)
    except ValueError:
        return raw
    if not isinstance(fields, dict) or "message" not in fields:
        return raw
    if fields["message"] == "request" and "path" in fields:
        text = (
            f"{fields.get('method', '')} {fields['path']} {fields.get('status', '')} {fields.get('duration_ms', '')} ms"
        )
    else:
        rest = " ".join(f"{k}={v}" for k, v in fields.items() if k not in _SHOWN_ELSEWHERE)
        text = f"{fields['message']} {rest}".rstrip()
    level = str(fields.get("level", ""))
    shown = text if level in ("", "info") else f"{level.upper()} {text}"
    return f"{shown}\n{fields['stack']}" if fields.get("stack") else shown


class ServiceLog:
    """Takes the lines of one replica. tail: its last lines, for a crash's report."""

    def __init__(self, name: str, path: Path, terminal: Terminal) -> None:
        self._name = name
        self._path = path
        self._terminal = terminal
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._file: TextIO | None = None
        self._written = 0
        self._failed = False
        with self._kept():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8", errors="replace")

    @property
    def path(self) -> Path:
        return self._path

    def warnings(self, said: Set[str] = frozenset()) -> list[str]:
        """Return which of the last lines are warnings or worse, without those that only repeat what was `said`."""
        levels = ("WARNING ", "ERROR ", "CRITICAL ")
        return [line for line in self.tail if line.startswith(levels) and line.partition(" ")[2] not in said]

    def take(self, raw: bytes) -> None:
        """Keep a line, without its newline."""
        text = raw.decode(errors="replace").rstrip("\r\n")
        if not text:
            return
        with self._kept():
            if self._file is None or self._written > MAX_FILE_BYTES:
                self._turn()
            assert self._file is not None
            self._file.write(text + "\n")
            self._file.flush()
            self._written += len(raw)
        shown = render_line(text)
        self.tail.append(shown)
        self._terminal.line(self._name, shown)

    def _turn(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
        self._file = self._path.open("a", encoding="utf-8", errors="replace")  # after a failure it goes on
        self._written = 0

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """A full disk costs log lines and not what runs: the first failure in a row is said, then each line tries again."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                self._terminal.say(
                    f"nexus: {self._path} cannot be written ({error.strerror}); lines are lost. Make room."
                )
            self._failed = True
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()  # with what it could not write
                self._file = None
        else:
            self._failed = False

    def close(self) -> None:
        with self._kept():
            if self._file is not None:
                self._file.close()


class TerminalHandler(logging.Handler):
    """Puts this process's own log records (the gateway's) between the services' lines."""

    def __init__(self, log: ServiceLog) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        detail = getattr(record, "detail", "")
        text = f"{level}{record.getMessage()} {detail}".rstrip()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        for line in text.splitlines():
            self._log.take(line.encode())
