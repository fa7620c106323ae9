"""What a publisher signs. The check itself is in the gateway, which runs the code."""

from __future__ import annotations

import msgspec

from nexus_core.snapshot.plugins import Release

_ENCODER = msgspec.json.Encoder(order="sorted")
UNSIGNED = frozenset({"signature", "url"})
"""The address is not signed, so that an index can be mirrored: the digest is."""


def signed_bytes(release: Release) -> bytes:
    """Return the canonical JSON of a release (sorted keys, no spaces, UTF-8) without `signature` and `url`.

    Every other field is there, with its default if need be: a field that is added later changes no old signature
    only if it is left out when it has its default; so do that, and add it here.
    """
    fields = {name: getattr(release, name) for name in release.__struct_fields__ if name not in UNSIGNED}
    return _ENCODER.encode(fields)
