"""One of 5,000 routes changes every second: what requests notice, and how long the proxy stands still for it.

Two open loops, each once in calm and once while routes change:

- at half of the proxy's own capacity: p99, calm and changing;
- at 1,000 requests a second, where nothing queues: a request that is due while the event loop stands still waits for the
  rest of that time, so the longest latency is the longest block, plus one request's own time, to the millisecond.

The changes are what a user makes: a manifest of Nexus is replaced by a rename, and so is Envoy's file of routes. Both
versions of the file are written before, so that making them costs the load's core nothing. In the end the last change must
be in force.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import routes
from loads import pace
from processes import Unusable, fetch
from results import Round
from sessions import Session, Stage, session

from scenarios.kinds import Options
from scenarios.latency import find_capacity, open_loop

LOAD_RATIO = 0.5
PROBE_PER_S = 1000.0
EVERY_S = 1.0
_SETTLE_S = 1.0
_IN_FORCE_S = 20.0


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield a round for each proxy that has routes to change."""
    seconds = 4 * options.seconds + _SETTLE_S
    for _ in range(options.rounds):
        for proxy in options.proxies:
            with session(stage, proxy) as running:
                rate = find_capacity(running, options) * LOAD_RATIO
                changes = Changes(running)
                half, probe = (partial(open_loop, running, options, each, seconds) for each in (rate, PROBE_PER_S))
                calm, changing = half(), changes.during(half)
                still, blocked = probe(), changes.during(probe)
                runs = (calm, changing, still, blocked)
                figures = [each.percentiles_ms(after_s=_SETTLE_S) for each in runs]
                for name in wanted:
                    yield (
                        name,
                        {
                            "proxy": proxy,
                            "rate_per_s": rate,
                            "changes": changes.made,
                            "calm_p99_ms": figures[0]["p99_ms"],
                            "changing_p99_ms": figures[1]["p99_ms"],
                            "p99_times": figures[1]["p99_ms"] / figures[0]["p99_ms"],
                            "calm_block_ms": figures[2]["max_ms"],
                            "block_ms": figures[3]["max_ms"],
                            "in_force_ms": changes.in_force_ms,
                            "errors": sum(each.failed for each in runs),
                        },
                    )


class Changes:
    """Edits of one proxy's routes. made: so far. in_force_ms: from the last edit to the first request it serves."""

    def __init__(self, running: Session) -> None:
        made = running.peer.changes
        if made is None:
            raise Unusable(f"{running.peer.name} has no routes to change")
        self._running = running
        self._target, *self._versions = made(running.bed)
        self.made = 0
        self.in_force_ms = 0.0

    def during(self, load: Callable[[], pace.Paced]) -> pace.Paced:
        """Make one change a second while `load` runs; return its result once further ones came to be in force. Raises Unusable."""
        found: list[pace.Paced | Unusable] = []

        def work() -> None:
            try:
                found.append(load())
            except Unusable as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            self._make()
            thread.join(EVERY_S)
        # Twice: the first of the two shows that a change comes to be in force, whichever version was live.
        for _ in range(2):
            self._make()
            self._wait_in_force()
        seen = found[0]
        if isinstance(seen, Unusable):
            raise seen
        return seen

    def _make(self) -> None:
        self.made += 1
        fresh = self._target.with_suffix(".new")
        fresh.hardlink_to(self._versions[self.made % 2])
        fresh.rename(self._target)

    def _wait_in_force(self) -> None:
        """The route of an odd version ends in `-next`; the one of an even version does not."""
        started = time.monotonic()
        path = "/reports/0/summary" + ("-next" if self.made % 2 else "")
        while fetch(self._running.bed.port, routes.host_name(0), path)[0] != 200:
            if time.monotonic() - started > _IN_FORCE_S:
                raise Unusable(f"{self._running.peer.name} does not serve a route changed {_IN_FORCE_S:.0f} s ago")
            time.sleep(0.01)
        self.in_force_ms = (time.monotonic() - started) * 1000
