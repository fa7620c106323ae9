"""What the instances of services say of the plugins that run in them, beside the gateways' acks on the wire.

Each instance writes its own under a key that its Consul session holds, so that it vanishes with the instance.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexus_core.snapshot.acks import PluginReport
from nexus_core.snapshot.wire import WireError

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(dict[str, PluginReport])


def encode_reports(reports: Mapping[str, PluginReport]) -> bytes:
    """Return the bytes of one instance's reports. reports: by `PluginInstance.id`."""
    return _ENCODER.encode(dict(reports))


def decode_reports(data: bytes) -> dict[str, PluginReport]:
    """Return the reports, by `PluginInstance.id`. Raises WireError when they cannot be read."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(
            f"The reports of plugins cannot be read: {error}. The service that wrote them is of another release; upgrade the older one."
        ) from error


def reports_prefix(prefix: str = "nexus") -> str:
    """Return what the keys of all reports begin with."""
    return f"{prefix}/service-plugins/"


def reports_key(service: str, instance: str, prefix: str = "nexus") -> str:
    """Return the key of an instance's reports. service: `<namespace>/<name>`. instance: without slashes."""
    return f"{reports_prefix(prefix)}{service}/{instance}"


def parse_reports_key(key: str, prefix: str = "nexus") -> tuple[str, str] | None:
    """Return the service, `<namespace>/<name>`, and the instance; None for a key that is none of `reports_key`."""
    head = reports_prefix(prefix)
    parts = key.removeprefix(head).split("/")
    if not key.startswith(head) or len(parts) != 3 or not all(parts):
        return None
    return f"{parts[0]}/{parts[1]}", parts[2]
