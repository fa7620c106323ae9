"""The deadline of a request: header `x-request-timeout`, decimal **seconds** that are left (`2`, `0.25`).

A span of time and not a point in it, because clocks of two machines differ. Each hop subtracts what it used.
"""

from __future__ import annotations

import contextvars
import re

HEADER = "x-request-timeout"
LONGEST_S = 86_400.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?\Z")

_current: contextvars.ContextVar[float | None] = contextvars.ContextVar("nexus_deadline", default=None)


def parse(text: str) -> float | None:
    """Return the seconds, at most a day; None when the text is no such number."""
    text = text.strip()
    return min(float(text), LONGEST_S) if _SECONDS.match(text) else None


def show(seconds: float) -> str:
    """Return the header's value: milliseconds are exact, never negative, never an exponent."""
    return f"{max(seconds, 0.0):.3f}"


def current() -> float | None:
    """Return when the request being handled has to be done (the event loop's `time()`), or None without a deadline."""
    return _current.get()


def enter(at: float) -> contextvars.Token[float | None]:
    """Make `at` the deadline of this context; undo with `leave`."""
    return _current.set(at)


def leave(token: contextvars.Token[float | None]) -> None:
    _current.reset(token)
