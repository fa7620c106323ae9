"""Requests that never pause, in a thread, with what became of each: for tests that change the gateway under them."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shop import Shop

PAUSE_S = 0.02
"""Between two requests of one client."""


@dataclass(frozen=True)
class Answered:
    """One request. at: monotonic seconds. status: 0 where there was no answer. mark: a header of it, empty without."""

    at: float
    status: int
    mark: str


class Traffic:
    """A few clients, each with one request at a time, until `stop`."""

    def __init__(self, shop: Shop, path: str, mark: str, clients: int = 2) -> None:
        """mark: the response header that is noted, lower-case."""
        self._shop, self._url, self._mark = shop, f"{shop.gateway}{path}", mark
        self._answers: list[Answered] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            at = time.monotonic()
            try:
                answer = self._shop.cluster.http_get(self._url)
                found = Answered(at, answer.status, answer.headers.get(self._mark, ""))
            except (OSError, http.client.HTTPException):
                found = Answered(at, 0, "")
            self._answers.append(found)
            self._stopping.wait(PAUSE_S)

    def stop(self) -> None:
        """End all clients."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def __len__(self) -> int:
        return len(self._answers)

    def since(self, number: int) -> Sequence[Answered]:
        """Return what was answered after the first so many."""
        return self._answers[number:]

    def marks(self, last: int = 20) -> Counter[str]:
        """Return how often each mark was there among the last answers."""
        return Counter(each.mark for each in self._answers[-last:])

    def failures(self, number: int = 0) -> list[Answered]:
        """Return the answers that were none, or a server's error, after the first so many."""
        return [each for each in self.since(number) if each.status == 0 or each.status >= 500]
