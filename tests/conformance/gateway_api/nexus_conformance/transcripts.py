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
        """Return the first error of a failed test in one line: testify's `Error:` and `Messages:`, or the first failed part."""
        lines = self.output.get(name, [])
        found: list[str] = []
        for number, line in enumerate(lines):
            if re.match(r"\s*Error:\s", line):
                found.append(line.split("Error:", 1)[1].strip())
                for later in lines[number + 1 : number + 30]:
                    if re.match(r"\s*Messages:\s", later):
                        found.append(later.split("Messages:", 1)[1].strip())
                        break
                    if re.match(r"\s*(Test|Error Trace):\s", later):
                        continue
                break
        if not found:
            found = [line.strip() for line in lines if "--- FAIL:" in line][:1]
        return ": ".join(reversed(found))[:300] or "no error in its output"
