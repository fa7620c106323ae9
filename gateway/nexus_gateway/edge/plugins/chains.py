"""The plugins of a rule, in their order, and those of them that take the short way (`edge.looking`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nexus_core.hooks import RequestHead

from nexus_gateway.edge.plugins.slots import Slot

Look = tuple[Callable[[RequestHead], object], Callable[[float], None], Slot]


class Chain:
    """slots: of all plugins. looks: of the first ones, as long as all they do is to look at the request's head in a plain function: that
    function, what keeps its time, and the slot. is_whole: whether these are all."""

    __slots__ = ("__weakref__", "is_whole", "looks", "slots")

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        self.looks: tuple[Look, ...] = ()
        self.is_whole = False
        for slot in self.slots:
            slot.chains.add(self)
        self.settle()

    def settle(self) -> None:
        """Find out anew who takes the short way: a slot was opened or closed, or has a candidate."""
        looks: list[Look] = []
        for slot in self.slots:
            if not slot.quick:
                break
            looks.append((slot.hook, slot.took, slot))
        self.looks = tuple(looks)
        self.is_whole = len(looks) == len(self.slots)
