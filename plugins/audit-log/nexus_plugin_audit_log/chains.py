"""Lines that are bound to each other: each has the digest of the one before, so that a line that was changed, moved or removed is seen.

A line is a JSON object with, among others, `chain` (of one gateway process), `seq` (from 0, without gaps) and `prev` (the digest of the
chain's line before; of its first line, of the chain's name). The digest is SHA-256 over the line's bytes, or HMAC-SHA-256 with a key:
who has no key can then also not write the chain anew. Lines that are missing at a chain's end are not seen by this alone: keep the last
line, or a digest of it, somewhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def digest(line: bytes, key: bytes = b"") -> str:
    """Return what the next line's `prev` has to be, in hex."""
    return hmac.new(key, line, hashlib.sha256).hexdigest() if key else hashlib.sha256(line).hexdigest()


class Chain:
    """Makes the lines of one chain."""

    def __init__(self, name: str, key: bytes = b"") -> None:
        self._name = name
        self._key = key
        self._next = 0
        self._previous = digest(name.encode(), key)

    def line(self, fields: Mapping[str, Any]) -> str:
        """Return the next line, without line break. fields: JSON values, in the order in which they are written."""
        whole = {"chain": self._name, "seq": self._next, **fields, "prev": self._previous}
        text = json.dumps(whole, separators=(",", ":"))  # ASCII: what reads it needs no care for its encoding
        self._next += 1
        self._previous = digest(text.encode(), self._key)
        return text


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain is broken. line: its number in what was read, from 1. what: that is wrong, for people."""

    line: int
    chain: str
    what: str


def verify(lines: Iterable[str | bytes], key: bytes = b"", *, from_start: bool = True) -> list[Break]:
    """Return all breaks, in order; empty for lines that are as they were written. Chains may be mixed; empty lines do not count.

    key: of the plugin's secret `chain-key`, if it has one. from_start: whether chains have to begin with their first line; without,
    the lines may be a part, such as those of one day.
    """
    last: dict[str, tuple[int, str]] = {}
    breaks = []
    for number, raw in enumerate(lines, 1):
        line = (raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else bytes(raw)).strip(b"\r\n")
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            chain, seq, previous = fields["chain"], fields["seq"], fields["prev"]
        except (ValueError, KeyError, TypeError, RecursionError):
            breaks.append(Break(number, "", "is no line of this log"))
            continue
        if not (isinstance(chain, str) and isinstance(seq, int) and isinstance(previous, str)):
            breaks.append(Break(number, "", "is no line of this log"))
            continue
        if chain in last:
            before, expected = last[chain]
            if seq != before + 1:
                what = f"{seq - before - 1} lines are missing before it" if seq > before + 1 else "is not in its place"
                breaks.append(Break(number, chain, what))
            elif not hmac.compare_digest(previous.encode(), expected.encode()):
                breaks.append(Break(number, chain, "the line before was changed, or it was"))
        elif from_start and (
            seq != 0 or not hmac.compare_digest(previous.encode(), digest(chain.encode(), key).encode())
        ):
            breaks.append(
                Break(number, chain, f"{seq} lines are missing before it" if seq else "is not this chain's first line")
            )
        last[chain] = (seq, digest(line, key))
    return breaks
