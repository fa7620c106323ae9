"""What a Connection header says. The same few values come with nearly every message, so each is read once."""

from __future__ import annotations

from nexus_wire.http1.fields import tokens

_MAX_KEPT = 256
_MAX_KEPT_VALUE = 64


class Options:
    """The options of all Connection headers of a message. listed: names that belong to this hop alone, lower-case, other than
    the ones in the other attributes."""

    __slots__ = ("close", "keep_alive", "listed", "upgrade")

    def __init__(self, value: bytes) -> None:
        found = frozenset(tokens(value))
        self.close = b"close" in found
        self.keep_alive = b"keep-alive" in found
        self.upgrade = b"upgrade" in found
        self.listed = found - {b"close", b"keep-alive", b"upgrade"}


class OptionsReader:
    """Reads Connection headers; keeps what it read of short ones that list no names of their own."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[bytes, Options] = {}

    def read(self, value: bytes) -> Options:
        """Return the options of a value; of several headers, joined by a comma."""
        found = self._kept.get(value)
        if found is None:
            found = Options(value)
            if len(self._kept) < _MAX_KEPT and len(value) <= _MAX_KEPT_VALUE:
                self._kept[value] = found
        return found

    def age(self) -> None:
        """Begin anew when full."""
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
