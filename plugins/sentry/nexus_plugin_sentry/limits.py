"""How much is sent: what Sentry asks to wait for, and how many reports a minute we make. Pure; `now` is monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping

_DEFAULT_WAIT_S = 60.0
_MAX_WAIT_S = 24 * 3600.0


class Pauses:
    """When errors may be sent again, as the answers said.

    Source: Sentry's developer documentation, "Rate Limiting": X-Sentry-Rate-Limits is `seconds:categories:scope:…, …`, without
    categories for all of them; Retry-After counts where it is missing and the status is 429.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def note(self, status: int, headers: Mapping[str, str], now: float) -> None:
        """Take note of an answer. headers: names lower-case."""
        limits = headers.get("x-sentry-rate-limits", "").strip()
        if limits:
            for limit in limits.split(","):
                seconds, categories = [*limit.strip().split(":"), ""][:2]
                if not categories or "error" in categories.split(";") or "default" in categories.split(";"):
                    self._wait(_seconds(seconds), now)
        elif status == 429:
            self._wait(_seconds(headers.get("retry-after", "")), now)

    def is_open(self, now: float) -> bool:
        """Return whether something may be sent."""
        return now >= self._until

    def _wait(self, seconds: float, now: float) -> None:
        self._until = max(self._until, now + seconds)


class Allowance:
    """At most so many reports a minute, in bursts of as many."""

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._left = self._size
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Return whether one more may be made, and count it."""
        if self._at is not None:
            self._left = min(self._size, self._left + (now - self._at) * self._size / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _seconds(text: str) -> float:
    """Return a number of seconds; a minute for what is none, such as a date."""
    try:
        seconds = float(text.strip())
    except ValueError:
        return _DEFAULT_WAIT_S
    return min(seconds, _MAX_WAIT_S) if seconds >= 0 else _DEFAULT_WAIT_S
