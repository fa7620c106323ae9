"""For tests of whoever runs plugins: signed releases made of source text, laid into a cache so that nothing has to be fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
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
from nexus_core.snapshot.plugins import Wheel, WheelNeed

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
    files: Mapping[str, str] | None = None,
    **fields: Any,
) -> PluginInstance:
    """Return an instance whose artefact is in the cache. code: of `demo/plugin.py`, whose class `Demo` is the entry point.

    release, fields: of the `Release` and the `PluginInstance`, in place of the defaults. files: more of the package, by name in it.
    """
    return PluginInstance(
        id=id, source=f"NexusPlugin/{id}", release=make_release(cache, code, files=files, **(release or {})), public_key=PUBLIC_KEY,
        config=json.dumps(config or {}), **fields,
    )  # fmt: skip


def make_release(
    cache: Path, code: str, *, package: str = "demo", files: Mapping[str, str] | None = None, **fields: Any
) -> Release:
    """Return a signed release whose artefact is in the cache; see `make_instance`. package: of the code."""
    sources = {"__init__.py": "", "plugin.py": code, **(files or {})}
    data = build_zip({f"{package}/{name}": dedent(text).encode() for name, text in sources.items()})
    digest = keep(cache, data, "zip")
    values: dict[str, Any] = {
        "name": package.replace("_", "-"), "version": "1.0.0", "api": ">=1.1,<2", "package": package,
        "entry_point": f"{package}.plugin:Demo", "sha256": digest, "url": f"artefacts/{digest}.zip", "publisher": "me", **fields,
    }  # fmt: skip
    return sign(Release(**values))


def build_wheel(
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    tag: str = "py3-none-any",
    extra: Mapping[str, bytes] | None = None,
) -> tuple[str, bytes]:
    """Return a wheel's file name and bytes. files: by their paths in it. extra: in place of what would be made, such as RECORD."""
    info = f"{name}-{version}.dist-info"
    parts = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in parts.items()]
    parts[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    parts.update(extra or {})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in parts.items():
            archive.writestr(path, content)
    return f"{name}-{version}-{tag}.whl", buffer.getvalue()


def keep_wheel(cache: Path, name: str, version: str, filename: str, data: bytes) -> WheelNeed:
    """Put a wheel into the cache; return what a release says of it."""
    return WheelNeed(name, version, (Wheel(filename, keep(cache, data, "whl")),))


def keep(cache: Path, data: bytes, suffix: str) -> str:
    """Put a file into the cache; return its digest."""
    digest = hashlib.sha256(data).hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"{digest}.{suffix}").write_bytes(data)
    return digest


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
