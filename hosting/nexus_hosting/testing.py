"""For tests of whoever runs plugins: signed releases made of source text, laid into a cache so that nothing has to be fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nexus_core.marketplace import signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import PluginInstance, Release

_KEY = Ed25519PrivateKey.generate()
PUBLIC_KEY = base64.b64encode(_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
"""Of the publisher of everything that is made here; another one in each process."""


def sign(release: Release) -> Release:
    """Return the release, signed by `PUBLIC_KEY`'s owner."""
    return msgspec.structs.replace(release, signature=base64.b64encode(_KEY.sign(signed_bytes(release))).decode())


def make_instance(
    cache: Path,
    code: str,
    *,
    id: str = "shop/demo",  # noqa: A002  # as the field is called
    config: Mapping[str, Any] | None = None,
    release: Mapping[str, Any] | None = None,
    **fields: Any,
) -> PluginInstance:
    """Return an instance whose artefact is in the cache. code: of `demo/plugin.py`, whose class `Demo` is the entry point.

    release, fields: of the `Release` and the `PluginInstance`, in place of the defaults.
    """
    data = build_zip({"demo/__init__.py": b"", "demo/plugin.py": dedent(code).encode()})
    digest = hashlib.sha256(data).hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"{digest}.zip").write_bytes(data)
    values: dict[str, Any] = {
        "name": "demo", "version": "1.0.0", "api": ">=1.1,<2", "package": "demo", "entry_point": "demo.plugin:Demo",
        "sha256": digest, "url": f"artefacts/{digest}.zip", "publisher": "me", **(release or {}),
    }  # fmt: skip
    return PluginInstance(
        id=id, source=f"NexusPlugin/{id}", release=sign(Release(**values)), public_key=PUBLIC_KEY,
        config=json.dumps(config or {}), **fields,
    )  # fmt: skip
