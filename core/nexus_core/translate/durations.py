"""Durations as the Gateway API writes them (GEP-2257): `1h2m3s4ms`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_MS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def parse_duration(text: str) -> float | None:
    """Return seconds, or None when the text is no duration."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(int(number) * _MS[unit] for number, unit in _PART.findall(text)) / 1000
