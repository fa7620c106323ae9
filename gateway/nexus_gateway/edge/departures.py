"""Sites that a swap took away, as long as a request may still be on its way on a connection that was made to them.

Their connections are asked to leave (`proxy.Proxy.sites`); what comes until they have is served by the runtime that had the site
last, as if it had come before the swap: a listener that gets another host name, port or protocol costs nobody a request.
"""

from __future__ import annotations

import asyncio

from nexus_gateway.edge.runtimes import Runtime


class Departures:
    """The last runtimes of sites that are gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, grace_s: float) -> None:
        """grace_s: how long after a swap requests may come to what it took away."""
        self._loop = loop
        self._grace_s = grace_s
        self._last: dict[str, Runtime] = {}

    def find(self, site: str) -> Runtime | None:
        """Return the runtime that serves a site which the live one does not have; None once that is over."""
        return self._last.get(site)

    def swapped(self, former: Runtime, live: Runtime) -> None:
        """Take note of a swap: what the former runtime had and the live one has not is gone from now on."""
        for site in live.routers:
            self._last.pop(site, None)
        gone = [site for site in former.routers if site not in live.routers]
        if gone:
            # A user more: it is not dismantled, and its plugins run, until nothing can come any more.
            former.users += 1
            self._last.update(dict.fromkeys(gone, former))
            self._loop.call_later(self._grace_s, self._over, former)

    def _over(self, former: Runtime) -> None:
        self._last = {site: runtime for site, runtime in self._last.items() if runtime is not former}
        former.left()
