"""Requests that a gateway served, as a replay needs them: enough to find a route, nothing that lets anyone in.

Beside the Snapshot on the wire: a gateway publishes its sample under a key that its Consul session holds, while the
operator asks for it by another key (`wanted_key`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from nexus_core.snapshot.wire import WireError

HIDDEN = "[redacted]"
"""What replaced values begin with. A digest may follow: equal values have equal ones, for one life of one gateway."""

MAX_PUBLISHED_BYTES = 256 * 1024
"""Compressed. Consul takes 512 KiB a value."""

MAX_INFLATED_BYTES = 32 * 1024 * 1024
"""More than any gateway keeps: what unpacks to more was not written by one."""


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request.

    method: upper-case. host, path: normal forms, as routes match them. query: raw, secret values replaced.
    headers: names lower-case, repeats joined by `,`, secret values replaced. client: network of the client's address (/24 or
    /48). route, rule: ids of who took it, empty for nobody. plugins: ids of those of its rule that were running. status: the answer's.
    """

    method: str
    host: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    client: str = ""
    route: str = ""
    rule: str = ""
    plugins: tuple[str, ...] = ()
    status: int = 0


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(tuple[Sample, ...])


def encode_samples(samples: Sequence[Sample], max_bytes: int = MAX_PUBLISHED_BYTES) -> tuple[bytes, int]:
    """Return compressed samples of at most `max_bytes`, and how many they are: the first ones, halved until they fit."""
    count = len(samples)
    while True:
        data = zlib.compress(_ENCODER.encode(samples[:count]), 6)
        if len(data) <= max_bytes or not count:
            return data, count
        # In proportion, and a little less: samples compress about alike.
        count = min(count - 1, count * max_bytes // len(data) * 95 // 100)


def decode_samples(data: bytes) -> tuple[Sample, ...]:
    """Return the samples. Raises WireError when they cannot be read."""
    try:
        unpack = zlib.decompressobj()
        text = unpack.decompress(data, MAX_INFLATED_BYTES)
        if unpack.unconsumed_tail or not unpack.eof:
            raise WireError("A sample of requests is cut off, or larger than any gateway writes. Restart that gateway.")
        return _DECODER.decode(text)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(
            f"A sample of requests cannot be read: {error}. The gateway replica that wrote it is of another release; upgrade the older one."
        ) from error


def samples_prefix(prefix: str = "nexus") -> str:
    """Return what the keys of all samples begin with."""
    return f"{prefix}/samples/by/"


def samples_key(replica: str, prefix: str = "nexus") -> str:
    """Return the key of a replica's sample."""
    return f"{samples_prefix(prefix)}{replica}"


def wanted_key(prefix: str = "nexus") -> str:
    """Return the key that is there while somebody asks for samples."""
    return f"{prefix}/samples/wanted"
