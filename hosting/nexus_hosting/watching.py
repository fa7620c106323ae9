"""Which plugin has the event loop, and since when: what callers of plugins note, and a watchdog reads from its own thread."""

from __future__ import annotations


class Watch:
    """Two stores mark a call, one its end, so that each costs next to nothing.

    who: whoever holds the loop, None for nobody from a plugin. since: monotonic seconds; stored before `who`, so that a reader that
    sees `who` sees its time too.
    """

    __slots__ = ("since", "who")

    def __init__(self) -> None:
        self.who: object | None = None
        self.since = 0.0


watch = Watch()
