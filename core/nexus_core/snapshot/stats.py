"""What gateways' plugins do, beside the acks on the wire: each replica (each worker of a gateway with several) writes its own under a
key that its Consul session holds, every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from nexus_core.snapshot.acks import PluginStats
from nexus_core.snapshot.wire import WireError

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(dict[str, PluginStats])


def encode_stats(stats: Mapping[str, PluginStats]) -> bytes:
    """Return the bytes of one replica's stats. stats: by `PluginInstance.id`."""
    return _ENCODER.encode(dict(stats))


def decode_stats(data: bytes) -> dict[str, PluginStats]:
    """Return the stats, by `PluginInstance.id`. Raises WireError when they cannot be read."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(
            f"The stats of plugins cannot be read: {error}. The gateway replica that wrote them is of another release; "
            "upgrade the older one."
        ) from error


def stats_prefix(prefix: str = "nexus") -> str:
    """Return what the keys of all stats begin with."""
    return f"{prefix}/stats/"


def stats_key(replica: str, prefix: str = "nexus") -> str:
    """Return the key of a replica's stats."""
    return f"{stats_prefix(prefix)}{replica}"


def add_up(stats: Iterable[PluginStats]) -> PluginStats:
    """Return what one plugin did in several replicas: sums, and the slowest one's p99.

    cpu_percent: of one core, so that four replicas may have 400.
    """
    every = tuple(stats)
    return PluginStats(
        sum(each.calls for each in every),
        sum(each.errors for each in every),
        sum(each.seconds for each in every),
        sum(each.cpu_s for each in every),
        sum(each.calls_per_s for each in every),
        max((each.p99_s for each in every), default=0.0),
        sum(each.cpu_percent for each in every),
    )
