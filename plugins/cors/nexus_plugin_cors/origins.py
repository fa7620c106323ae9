"""Sets of origins: exact ones, wildcards for subdomains, expressions. Knows nothing of requests."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nexus_sdk.plugin import PluginConfigError, pattern_fault

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\x00-\x20\x7f-\U0010ffff/?#@,\"\\]{1,261}")
"""A serialised origin: a scheme, 253 characters of host, a colon and five digits, and brackets around IPv6."""
_LISTED = re.compile(r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")
_LABELS = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PORTS = {"http": ":80", "https": ":443"}


class Origins:
    """A set of origins.

    Exact ones are found in one look-up, `https://*.example.com` by its ending; expressions have to match the whole origin. They are
    judged by `pattern_fault` and see at most 280 characters, so that what strangers send cannot make them slow.
    """

    __slots__ = ("_exact", "_patterns", "_wild", "any")

    def __init__(self, listed: Iterable[str], patterns: Iterable[str]) -> None:
        """Raises PluginConfigError for what is no origin, and for an expression that could take very long."""
        self.any = False
        exact: set[str] = set()
        wild: list[tuple[str, str]] = []
        for index, text in enumerate(listed):
            low = text.lower()
            if low == "*":
                self.any = True
            elif low == "null":
                exact.add(low)
            elif not _LISTED.fullmatch(low):
                raise PluginConfigError(
                    f"config.origins[{index}]: {text!r} is no origin; write https://shop.example, https://*.shop.example, null or *."
                )
            elif "*" in low:
                before, _, after = normalise(low).partition("*")
                wild.append((before, after))
            else:
                exact.add(normalise(low))
        compiled: list[re.Pattern[str]] = []
        for index, text in enumerate(patterns):
            fault = pattern_fault(text)
            if fault:
                raise PluginConfigError(f"config.originPatterns[{index}]: The expression {fault}.")
            compiled.append(re.compile(text))
        self._exact = frozenset(exact)
        self._wild = tuple(wild)
        self._patterns = tuple(compiled)

    def __contains__(self, origin: str) -> bool:
        """Return whether an Origin header's value is one of these. `null` is only where it is listed; what is no origin never is."""
        low = origin.lower()
        if low == "null":
            return low in self._exact
        # Some letters beyond ASCII have lower-case forms in it.
        if not origin.isascii() or not _ORIGIN.fullmatch(low):
            return False
        asked = normalise(low)
        if self.any or asked in self._exact:
            return True
        for before, after in self._wild:
            # The star stands for one or more labels: nothing with a port, a bracket or a dot at its ends.
            if (
                asked.startswith(before)
                and asked.endswith(after)
                and _LABELS.fullmatch(asked[len(before) : -len(after)])
            ):
                return True
        return any(pattern.fullmatch(asked) for pattern in self._patterns)


def normalise(origin: str) -> str:
    """Return a lower-case origin without its scheme's well-known port."""
    port = _PORTS.get(origin.partition("://")[0], "")
    return origin.removesuffix(port) if port else origin
