"""How a hook outside HTTP says no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was asked is not done. reason: CamelCase, for programs. message: what, where and how to fix, for people."""

    reason: str
    message: str
