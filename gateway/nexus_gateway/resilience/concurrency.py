"""How many requests an upstream is sent at once: a fixed bulkhead, a limit found from response times, and a bounded queue.

The adaptive limit. An upstream that can work on `c` requests at once answers in its own time T up to there; beyond, requests queue
inside it and the response time grows in proportion. So the limit follows the gradient between the time without a queue and the time now:

    gradient = clamp(TOLERANCE · rtt_min / rtt_now, 0.5, 1.5)
    limit'   = limit · (1 - SMOOTHING) + SMOOTHING · (limit · gradient + sqrt(limit))

With rtt_now = rtt_min · limit / c it settles a little above TOLERANCE · c: the tolerance and the square root are the room in
which growth of c is noticed. `rtt_now` is the median of a window, so that a few slow answers do not count.
`rtt_min` is what keeps this honest: measured under load it would contain the queue, and the limit would creep up with it.
So it is measured anew every `PROBE_EVERY_S` with the limit halved for some answers, and halved again while that makes answers faster
(and at once when the limit is stuck at its minimum: the upstream became slower).
A limit that is not in use (fewer than half of it in flight) says nothing and does not grow.
Sources: Envoy, "Adaptive Concurrency" (gradient controller, min RTT windows, headroom); Netflix concurrency-limits, Gradient2Limit
(smoothing, tolerance, no growth when limited by the application).

With several workers the fixed limit and the queue's bound are for all of them together (`bulkheads`); the queue is each worker's own. The
adaptive limit is found by each worker for itself: what it sees of the upstream already contains what the others send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import sqrt

from nexus_core.snapshot import Concurrency

from nexus_gateway.resilience.places import Places

TOLERANCE = 1.1
SMOOTHING = 0.3
WINDOW_S = 0.1
"""Shortest window; it goes on until it has `MIN_SAMPLES`."""
MIN_SAMPLES = 10
MAX_SAMPLES = 256
"""More answers in a window are not looked at: the median of the first ones is as good."""
PROBE_EVERY_S = 30.0
PROBE_SAMPLES = 20
FASTER = 0.85
"""A response time below this share of the one before is a faster one."""
STUCK = 5
"""Windows at the minimum after which `rtt_min` is doubted."""
CROWDED_RATIO = 0.8


class Gradient:
    """Finds the limit. now: monotonic seconds. limit: requests at once, a float while it moves in small steps.

    rtt_min_s, rtt_s: seconds; 0 before the first window. probing: whether the limit is lowered to measure `rtt_min_s`.
    """

    __slots__ = (
        "_inflight", "_kept", "_max", "_min", "_probe_at", "_samples", "_stuck", "_until", "_wait_until", "limit",
        "probing", "rtt_min_s", "rtt_s",
    )  # fmt: skip

    def __init__(self, least: int, most: int, now: float) -> None:
        self._min = max(1, least)
        self._max = max(self._min, most)
        # Four times the least: near enough to little not to hurt, and half of it in use lets it grow.
        self.limit = float(min(self._max, 4 * self._min))
        self._samples: list[float] = []
        self._inflight = 0
        self._until = now + WINDOW_S
        self._probe_at = now + PROBE_EVERY_S
        self._wait_until = 0.0
        self._stuck = 0
        self._kept = self.limit
        self.probing = False
        self.rtt_min_s = 0.0
        self.rtt_s = 0.0

    def bound(self, least: int, most: int) -> None:
        """Take over changed bounds."""
        self._min = max(1, least)
        self._max = max(self._min, most)
        self.limit = min(max(self.limit, float(self._min)), float(self._max))
        self._kept = min(max(self._kept, float(self._min)), float(self._max))

    def observe(self, seconds: float, inflight: int, now: float, *, ok: bool) -> bool:
        """Count a response time, and return whether the limit changed.

        inflight: requests that were running with it. ok: False for one that failed, whose time counts only when it was long: a
        fast refusal says nothing of the queue, a timeout much.
        """
        if not ok and (not self.rtt_min_s or seconds < 2.0 * self.rtt_min_s):
            return False
        if now < self._wait_until:
            return False
        samples = self._samples
        if len(samples) < MAX_SAMPLES:
            samples.append(seconds)
        if inflight > self._inflight:
            self._inflight = inflight
        if self.probing:
            if len(samples) < PROBE_SAMPLES:
                return False
            self._go_on_probing(now)
            return True
        if now < self._until or len(samples) < MIN_SAMPLES:
            return False
        return self._turn(now)

    def _turn(self, now: float) -> bool:
        """End a window."""
        self.rtt_s = rtt_s = _median(self._samples)
        self.rtt_min_s = min(rtt_s, self.rtt_min_s or rtt_s)
        inflight = self._inflight
        self._begin(now)
        before = int(self.limit)
        gradient = max(0.5, min(1.5, TOLERANCE * self.rtt_min_s / rtt_s)) if rtt_s > 0.0 else 1.5
        wanted = self.limit * gradient + sqrt(self.limit)
        if wanted < self.limit or 2 * inflight >= self.limit:
            limit = self.limit + SMOOTHING * (wanted - self.limit)
            self.limit = max(float(self._min), min(float(self._max), limit))
        self._stuck = self._stuck + 1 if self.limit <= self._min and gradient < 1.0 else 0
        if now >= self._probe_at or self._stuck >= STUCK:
            self._begin_probe(now)
        return int(self.limit) != before

    def _begin_probe(self, now: float) -> None:
        self.probing = True
        self._stuck = 0
        self._kept = self.limit
        self._lower(now)

    def _lower(self, now: float) -> None:
        self.limit = max(float(self._min), self.limit / 2.0)
        # What was sent before still meets the old queue.
        self._wait_until = now + 2.0 * self.rtt_s

    def _go_on_probing(self, now: float) -> None:
        """Halve the limit again as long as that makes answers faster, which means that there was a queue; else be done."""
        rtt_s = _median(self._samples)
        faster, self.rtt_s = rtt_s < FASTER * self.rtt_s, rtt_s
        self._begin(now)
        if faster and self.limit > self._min:
            self._lower(now)
            return
        self.rtt_min_s = rtt_s
        self.probing = False
        self.limit = self._kept
        self._probe_at = now + PROBE_EVERY_S

    def _begin(self, now: float) -> None:
        self._samples.clear()
        self._inflight = 0
        self._until = now + WINDOW_S


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


class Limiter:
    """Lets requests to one upstream through, has them wait in order of arrival, or refuses them.

    running: places taken here. limit: places there are. A limit that shrinks below `running` takes nothing back.
    """

    __slots__ = (
        "__weakref__",
        "_admitting",
        "_fixed",
        "_gradient",
        "_shared",
        "_waiting",
        "limit",
        "policy",
        "running",
    )

    def __init__(self, policy: Concurrency, now: float, shared: Places | None = None) -> None:
        """shared: places of the upstream that all workers take; None when there is one worker."""
        self.running = 0
        self._shared = shared
        self._waiting: deque[Callable[[], None]] = deque()
        self._admitting = False
        self._gradient: Gradient | None = None
        self.limit = 0
        self.apply(policy, now)

    def apply(self, policy: Concurrency, now: float) -> None:
        """Take over a changed policy; who runs and who waits stays, and so does the limit that was found."""
        self.policy = policy
        if not policy.adaptive:
            self._gradient = None
        elif self._gradient is None:
            self._gradient = Gradient(policy.min_limit, policy.max_limit, now)
        else:
            self._gradient.bound(policy.min_limit, policy.max_limit)
        self._set_limit()
        self._admit()

    def _set_limit(self) -> None:
        self._fixed = fixed = self.policy.max_requests
        found = None if self._gradient is None else int(self._gradient.limit)
        self.limit = min(each for each in (fixed or _ANY, found or _ANY))

    def acquire(self, now: float, wake: Callable[[], None]) -> bool | None:
        """Return True for a place, False for none, None when the request waits for one.

        wake: called once when a waiting request has its place, which is then taken; `leave` ends the wait. A place is given
        back with `release`.
        """
        if self.enter():
            return True
        shared = self._shared
        if (len(self._waiting) if shared is None else shared.pending()) >= self.policy.max_pending:
            return False
        self._waiting.append(wake)
        if shared is not None:
            shared.wait(1)
        return None

    def enter(self) -> bool:
        """Take a place that is free; return whether there was one. Nobody waits."""
        if self.running < self.limit and not self._waiting:
            shared = self._shared
            if shared is None:
                self.running += 1
                return True
            if (count := shared.running) < shared.kept:
                shared.running = count + 1
                self.running += 1
                return True
            if shared.enter(self._fixed):
                self.running += 1
                return True
        return False

    def leave(self, wake: Callable[[], None]) -> bool:
        """Stop waiting; return whether it still did."""
        try:
            self._waiting.remove(wake)
        except ValueError:
            return False
        if self._shared is not None:
            self._shared.wait(-1)
        return True

    def release(self, now: float, seconds: float, *, ok: bool) -> None:
        """Give a place back. seconds: the response time, of an answer (ok) or of a failure. Whoever waits longest is woken."""
        running = self.running
        if running > 0:
            self.running = running - 1
            shared = self._shared
            if shared is not None:
                shared.running = count = shared.running - 1
                if shared.tight:
                    shared.kept = count
                    shared.view[shared.own] = count
        if self._gradient is not None and self._gradient.observe(seconds, running, now, ok=ok):
            self._set_limit()
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        # A woken request may end, and release, before `wake` returns; the loop that runs goes on then, instead of one
        # inside the other for each that waits.
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._waiting and self.running < self.limit:
                shared = self._shared
                if shared is not None:
                    if not shared.enter(self._fixed):
                        return
                    shared.wait(-1)
                self.running += 1
                self._waiting.popleft()()
        finally:
            self._admitting = False

    def look(self) -> None:
        """Let in who waits, as far as there are places: other workers may have given some back."""
        self._admit()

    @property
    def pending(self) -> int:
        """Requests that wait here."""
        return len(self._waiting)

    @property
    def taken(self) -> int:
        """Places taken, in all workers."""
        return self.running if self._shared is None else self._shared.taken()

    @property
    def crowded(self) -> bool:
        """Whether so many places are taken that nothing optional should be sent."""
        taken = self.taken if self._fixed else self.running
        return bool(self._waiting) or taken >= CROWDED_RATIO * self.limit


_ANY = 1 << 62
