"""Plugins that look at the request's head, in plain functions: what nearly all of them are, and what a request pays least for.

A request that meets no others owns no `Hooked`: its head is the client's bytes, and the lines that plugins added. Whatever else a plugin
says (a reply, another path, a coroutine), the request goes on the long way from there.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from nexus_hosting.bounds import THROWN
from nexus_hosting.watching import watch

from nexus_gateway.edge.heads import arrived, latest
from nexus_gateway.edge.hooked import Hooked

if TYPE_CHECKING:
    from nexus_gateway.edge.ending import Ending
    from nexus_gateway.edge.plugins.chains import Chain


def look(exchange: Ending, chain: Chain) -> bool:
    """Run the plugins of a rule. Return whether the exchange goes on to its backend now; else it will, or it was answered."""
    head = exchange.head = arrived(exchange)
    # The flags' last digit: `contexts.is_sampled`, without the call. Whoever looks at its trace wants the times of its hooks.
    if exchange.context[67] == 49 or exchange.extra is not None:
        exchange.hooked = hooked = Hooked(exchange)
        return hooked.plugins(chain.slots)
    latest.head = head
    ended = monotonic()
    for hook, took, slot in chain.looks:
        watch.since = ended
        watch.who = slot
        try:
            result = hook(head)
        except THROWN as error:
            latest.head = head
            slot.broke(ended, error)
            if slot.is_closed:
                latest.head = None
                exchange.hooked = hooked = Hooked(exchange)
                hooked.unavailable(slot.instance.id)
                return False
            ended = monotonic()
            continue
        if result is not head:
            if result is not latest.head:
                exchange.head = head
                exchange.hooked = hooked = Hooked(exchange)
                return hooked.plugins(
                    chain.slots, chain.slots.index(slot), partial(slot.judge_request, head, result, ended)
                )
            head = result
        now = monotonic()
        took(now - ended)
        ended = now
    watch.who = latest.head = None
    exchange.head = head
    if chain.is_whole:
        return True
    exchange.hooked = hooked = Hooked(exchange)
    return hooked.plugins(chain.slots, len(chain.looks))
