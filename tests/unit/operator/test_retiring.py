"""How long endpoints stay registered to which no route leads any more."""

from __future__ import annotations

from nexus_core.translate import Mirror
from nexus_operator.mirror.retiring import RETIRE_S, Retiring

OLD, NEW = (Mirror(f"{name}.shop", "shop", name, 80) for name in ("old", "new"))


def test_what_was_replaced_stays_until_every_gateway_has_the_successor() -> None:
    retiring = Retiring()
    assert retiring.beside([OLD], 0.0, settled=True) == ()
    retiring.replace([OLD], 10.0)
    assert retiring.beside([NEW], 10.0, settled=False) == (OLD,)
    assert retiring.beside([NEW], 11.0, settled=False) == (OLD,)
    assert retiring.beside([NEW], 12.0, settled=True) == ()
    assert retiring.beside([NEW], 13.0, settled=False) == (), "what is gone stays gone"


def test_it_stays_for_a_while_at_most() -> None:
    retiring = Retiring()
    retiring.replace([OLD], 10.0)
    assert retiring.beside([NEW], 10.0 + RETIRE_S - 0.1, settled=False) == (OLD,)
    assert retiring.beside([NEW], 10.0 + RETIRE_S, settled=False) == ()


def test_what_is_wanted_again_is_not_there_twice() -> None:
    retiring = Retiring()
    retiring.replace([OLD, NEW], 10.0)
    assert retiring.beside([NEW], 10.0, settled=False) == (OLD,)
    assert retiring.beside([OLD, NEW], 11.0, settled=False) == ()
