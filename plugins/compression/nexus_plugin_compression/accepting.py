"""Which coding a client wants most, by its Accept-Encoding. Pure.

Source: RFC 9110, 12.4.2 (quality values) and 12.5.3 (Accept-Encoding).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST = 1024
"""Characters of an Accept-Encoding that are read; browsers send some thirty."""
_CODING = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?")


def weights(accept: str) -> dict[str, float]:
    """Return the quality value of each coding that is named, lower-case. What cannot be read is left out."""
    found: dict[str, float] = {}
    for part in accept[:_LONGEST].lower().split(","):
        match = _CODING.fullmatch(part)
        if match is not None:
            name = match[1]
            if name.startswith("x-") and name[2:] in ("gzip", "compress"):
                name = name[2:]
            found[name] = 1.0 if match[2] is None else float(match[2])
    return found


def choose(accept: str | None, preferred: Sequence[str]) -> str | None:
    """Return the coding to use, None for none.

    accept: the header's lines, joined; None when there is none, which accepts anything but asks for nothing.
    preferred: what can be made, best first; it decides between equal qualities. A coding below `identity`'s own quality is not used.
    """
    if not accept:
        return None
    wanted = weights(accept)
    rest = wanted.get("*", 0.0)
    best, quality = None, 0.0
    for coding in preferred:
        weight = wanted.get(coding, rest)
        if weight > quality:
            best, quality = coding, weight
    return best if quality >= wanted.get("identity", 0.0) else None
