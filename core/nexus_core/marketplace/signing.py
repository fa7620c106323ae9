"""What a publisher signs. The check itself is in the gateway, which runs the code."""

from __future__ import annotations

import msgspec

from nexus_core.snapshot.plugins import Release

_ENCODER = msgspec.json.Encoder(order="sorted")
_FIRST = frozenset(
    {
        "name",
        "version",
        "api",
        "package",
        "entry_point",
        "sha256",
        "summary",
        "config_schema",
        "failure_policy",
        "publisher",
    }
)
UNSIGNED = frozenset({"signature", "url"})
"""The address is not signed, so that an index can be mirrored: the digest is."""


def signed_bytes(release: Release) -> bytes:
    """Return the canonical JSON of a release (sorted keys, no spaces, UTF-8) without `signature` and `url`.

    Fields of the first release of Nexus are there, defaults too. A field that was added to `Release` later is left out while it
    has its default: otherwise it would change the bytes that old signatures are over.
    """
    fields = {
        field.name: value
        for field in msgspec.structs.fields(Release)
        if field.name not in UNSIGNED
        for value in [getattr(release, field.name)]
        if field.name in _FIRST or value != field.default
    }
    return _ENCODER.encode(fields)
