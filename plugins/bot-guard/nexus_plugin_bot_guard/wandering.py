"""How many different paths each client asks for: scanners and scrapers try very many. Pure; bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict

BITS = 1024
"""Of a client's map. Linear counting tells about 3,000 different paths apart with it, to within some per cent."""


class Wandering:
    """Estimates of different paths by client within a window. most: clients that are remembered, about 350 bytes each.

    Each client has a map of bits, one of which each path sets. From how many are set follows how many paths there were: Whang,
    Vander-Zanden, Taylor, "A Linear-Time Probabilistic Counting Algorithm for Database Applications", 1990.
    """

    __slots__ = ("_clients", "_most", "_seed", "_window_s")

    def __init__(self, window_s: float, most: int, seed: int) -> None:
        """seed: any number; which path sets which bit depends on it, so that nobody can choose paths that set one."""
        self._window_s = window_s
        self._most = most
        self._seed = seed
        self._clients: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: str, path: str, now: float) -> int:
        """Note a path of a client; return about how many different ones it asked for within the window."""
        begun, bits = self._clients.get(client, (now, 0))
        if now - begun >= self._window_s:
            begun, bits = now, 0
        bits |= 1 << hash((self._seed, path)) % BITS
        self._clients[client] = (begun, bits)
        self._clients.move_to_end(client)
        if len(self._clients) > self._most:
            self._clients.popitem(last=False)
        return estimate(bits)


def estimate(bits: int) -> int:
    """Return about how many different things set so many bits of the map."""
    free = BITS - bits.bit_count()
    return round(-BITS * math.log(free / BITS)) if free else BITS * 8
