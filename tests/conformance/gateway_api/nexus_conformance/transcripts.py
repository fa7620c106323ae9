"""What `go test -v=test2json` of the suite writes, read line by line: which test ended how, and what it said. Pure.

Source: https://pkg.go.dev/cmd/test2json, `-test.v=test2json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MARK = "\x16"
"""Stands before the lines of the test framework itself in this mode."""
_NOTE = re.compile(r"=== (RUN|PAUSE|CONT|NAME)\s+(\S+)")
_END = re.compile(r"\s*--- (PASS|FAIL|SKIP): (\S+) \((\d+\.\d+)s\)")
_ROOT = "TestConformance"
_MAX_LINES = 4000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test of the suite ended. verdict: PASS, FAIL or SKIP."""

    verdict: str
    seconds: float


@dataclass(slots=True)
class Transcript:
    """Everything read so far. `outcomes` and `output` are by test name, without `TestConformance/` and without subtests."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    output: dict[str, list[str]] = field(default_factory=dict)
    """Lines each test wrote, "" for what the suite itself did (set-up). At most the last 4,000 of each."""
    _current: str = ""

    def feed(self, line: str) -> tuple[str, Outcome] | None:
        """Take one line; return (test, outcome) if it says that a test of the suite has ended."""
        text = line.rstrip("\n")
        # A test that writes no newline has the mark in the middle of the line.
        _, marked, said = text.rpartition(MARK)
        if marked:
            if note := _NOTE.match(said):
                self._current = self._top(note[2])
            elif end := _END.match(said):
                name, outcome = end[2], Outcome(end[1], float(end[3]))
                self._write(self._top(name), said)
                if name.count("/") == 1 and name.startswith(f"{_ROOT}/"):
                    top = self._top(name)
                    self.outcomes[top] = outcome
                    return top, outcome
                return None
        self._write(self._current, text.replace(MARK, ""))
        return None

    @staticmethod
    def _top(name: str) -> str:
        parts = name.split("/")
        return parts[1] if parts[0] == _ROOT and len(parts) > 1 else ""

    def _write(self, name: str, text: str) -> None:
        lines = self.output.setdefault(name, [])
        lines.append(text)
        if len(lines) > _MAX_LINES:
            del lines[: _MAX_LINES // 4]

    def failed(self) -> Mapping[str, Outcome]:
        return {name: outcome for name, outcome in self.outcomes.items() if outcome.verdict == "FAIL"}

    def reason(self, name: str) -> str:
        """Return why a test failed, in one line: what testify or a wait said last, and the first part of it that failed."""
        lines = self.output.get(name, [])
        part = next(
            (found[1] for line in lines if (found := re.match(rf"\s*--- FAIL: {_ROOT}/[^/ ]+/(\S+)", line))), ""
        )
        said = [_testify(lines), next((text for line in reversed(lines) if (text := _waited(line))), "")]
        said = [text for text in said if text] or [next((line for line in reversed(lines) if "panic:" in line), "")]
        return ": ".join(filter(None, [part.replace("_", " "), *said]))[:500] or "no error in its output"


def _waited(line: str) -> str:
    """Return what a line says that a wait of the suite writes for each try that was not enough, "" for another line."""
    if found := re.search(r"not ready yet: (.*)|(timeout while waiting .*)", line):
        return (found[1] or found[2]).strip()
    if found := re.search(r"Z: (.*); retrying$|: (failed to perform .*|Fatal: .*)|Z: (.* doesn't have .*)", line):
        return next(text for text in found.groups() if text).strip()
    return ""


def _testify(lines: list[str]) -> str:
    """Return the first `Error:` of testify and its `Messages:` as `message: error`, "" if there is none."""
    for number, line in enumerate(lines):
        if (found := re.match(r"\s*Error:\s+(.*)", line)) is None:
            continue
        error, messages = [found[1].strip()], ""
        for later in lines[number + 1 : number + 40]:
            if named := re.match(r"\s*(Test|Messages|Error Trace):\s+(.*)", later):
                if named[1] == "Messages":
                    messages = named[2].strip()
            elif len(error) < 4 and (continued := re.match(r"\s*\t {8,}\t(.*)", later)):
                error.append(continued[1].strip())
            else:
                break
        return ": ".join(filter(None, [messages, " ".join(error)]))
    return ""
