"""What a publisher signs. The check itself is in the gateway, which runs the code."""

from __future__ import annotations

import msgspec

from nexus_core.snapshot.plugins import Release

_ENCODER = msgspec.json.Encoder(order="sorted")
UNSIGNED = frozenset({"signature", "url"})
"""The address is not signed, so that an index can be mirrored: the digest is."""


def signed_bytes(release: Release) -> bytes:
    """Return the canonical JSON of a release (sorted keys, no spaces, UTF-8) without `signature` and `url`.

    Every other field is there, defaults too. A field that is added to `Release` later must be left out here while it
    has its default: otherwise it would change the bytes that old signatures are over.
    """
    fields = {name: getattr(release, name) for name in release.__struct_fields__ if name not in UNSIGNED}
    return _ENCODER.encode(fields)
