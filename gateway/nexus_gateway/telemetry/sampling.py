"""Which requests are kept for a replay, and what of them: a bounded, uniform choice without what lets anyone in.

Reservoir sampling by skips: how many requests pass until the next one is taken is drawn ahead, so a request that is not
taken costs one decrement. Source: K.-H. Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", ACM TOMS 20 (1994),
algorithm L. Every `EPOCH_S` the count begins anew with what is there, so that old requests make room for new ones.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address, ip_network
from math import exp, floor, log

import msgspec
from nexus_core.snapshot.samples import HIDDEN, Sample

from nexus_gateway.telemetry.redactions import is_secret, redact_query

EPOCH_S = 3600.0
"""A request of the last hour is as likely to be in the sample as any other of it; older ones fade away."""

MAX_PATH_CHARS = 1024
"""A request with a longer path is not kept: cut, it would take another way."""
MAX_QUERY_CHARS = 512
MAX_VALUE_CHARS = 128
MAX_HEADERS_CHARS = 1024
"""Of the names and values of one request's headers: values that find no room are replaced, then headers left out."""
MAX_SAMPLE_BYTES = 8192
"""What a sample is at most, encoded (text of others than us may grow to three bytes a character, and more with escapes)."""

_OF_CLIENT = frozenset(
    {"x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "referer",
     "x-nexus-debug"}
)  # fmt: skip
"""Headers that hold an address, or a URL with who knows what in it."""


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Sample).decode


class Reservoir:
    """At most `size` samples of the requests that passed.

    left: requests to let pass before the next one is taken: count it down, and call `keep` with the one that makes it
    negative. size: 0 takes none.
    """

    __slots__ = ("_began_at", "_left_at", "_passed", "_random", "_samples", "_weight", "left", "size")

    def __init__(self, size: int, rng: random.Random, now: float) -> None:
        """now: monotonic seconds."""
        self.size = size
        self._random = rng.random
        # Encoded: a quarter of the memory of as many objects.
        self._samples: list[bytes] = []
        self._weight = 1.0
        self._passed = 0
        self._began_at = now
        self.left = self._left_at = 0 if size else sys.maxsize

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What is kept, in no order."""
        return tuple(_DECODE(each) for each in self._samples)

    @property
    def held_bytes(self) -> int:
        """Memory of what is kept; `size * MAX_SAMPLE_BYTES` at most."""
        return sum(map(len, self._samples))

    @property
    def passed(self) -> int:
        """Requests that were counted, taken or not."""
        return self._passed + self._left_at - max(self.left, 0)

    def keep(self, sample: Sample | None, now: float) -> None:
        """Take a sample in, in the place of any when all are taken, and draw the next. None: the request cannot be kept."""
        self._passed += self._left_at + 1
        self._left_at = 0
        kept = self._samples
        data = _encode(sample) if sample is not None else b""
        if 0 < len(data) <= MAX_SAMPLE_BYTES:
            if len(kept) < self.size:
                kept.append(data)
            else:
                kept[int(self._random() * len(kept))] = data
        if len(kept) < self.size:
            self.left = 0
            return
        if now - self._began_at >= EPOCH_S:
            self._began_at = now
            self._weight = 1.0
        # 1 - random() is in (0, 1]: its logarithm is there.
        self._weight *= exp(log(1.0 - self._random()) / self.size)
        rest = 1.0 - self._weight
        skip = log(1.0 - self._random()) / log(rest) if 0.0 < rest < 1.0 else 0.0
        self.left = self._left_at = min(floor(skip), sys.maxsize)


def _encode(sample: Sample) -> bytes:
    """Return the sample's bytes; none for text that no encoding takes (lone surrogates, which no request of ours has)."""
    try:
        return _ENCODE(sample)
    except UnicodeEncodeError:
        return b""


class Redaction:
    """Makes samples. Equal secret values get equal digests, which say nothing without the key."""

    def __init__(self, key: bytes) -> None:
        """key: of this process alone, 16 to 64 random bytes; never leaves it."""
        self._key = key

    def sample(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        client_ip: str,
        *,
        route: str,
        rule: str,
        plugins: tuple[str, ...],
        status: int,
    ) -> Sample | None:
        """Return what is kept of a request; None when its path is too long. headers: names lower-case, repeats joined."""
        if len(path) > MAX_PATH_CHARS:
            return None
        kept: list[tuple[str, str]] = []
        room = MAX_HEADERS_CHARS
        for name, value in headers:
            room -= len(name)
            if name in _OF_CLIENT or is_secret(name):
                value = f"{HIDDEN}:{self._digest(value)}"
            elif len(value) > min(MAX_VALUE_CHARS, room):
                value = HIDDEN
            room -= len(value)
            if room < 0:
                break
            kept.append((name, value))
        return Sample(
            method,
            host,
            path,
            _cut_query(redact_query(query)),
            tuple(kept),
            truncate_address(client_ip),
            route,
            rule,
            plugins,
            status,
        )

    def _digest(self, value: str) -> str:
        return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=6, key=self._key).hexdigest()


def _cut_query(query: str) -> str:
    """Return the parameters that find room."""
    if len(query) <= MAX_QUERY_CHARS:
        return query
    return query[:MAX_QUERY_CHARS].rpartition("&")[0]


@lru_cache(1024)
def truncate_address(address: str) -> str:
    """Return the /24 of an IPv4 address, the /48 of an IPv6 one, empty for anything else."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))
