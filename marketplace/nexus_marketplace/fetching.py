"""Artefacts by digest: from the cache, from the installed package, or from the marketplace. Whatever the way, the digest must match."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout
from nexus_core.marketplace.artefact import build_zip, is_part
from nexus_core.snapshot import PluginInstance

from nexus_marketplace.rejections import PluginRejected

MAX_ARTEFACT_BYTES = 4 * 2**20
FETCH_S = 5.0
_MAX_REDIRECTS = 3
BUNDLED = "bundled:"


async def fetch(instance: PluginInstance, cache: Path) -> bytes:
    """Return the artefact's verified bytes. Raises `PluginRejected`."""
    release = instance.release
    kept = cache / f"{release.sha256}.zip"
    data = await asyncio.to_thread(_read_kept, kept, release.sha256)
    if data is not None:
        return data
    if release.url.startswith(BUNDLED):
        data = await asyncio.to_thread(read_bundled, release.package)
        origin = f"the installed package {release.package}"
    else:
        origin = urljoin(instance.base_url, release.url)
        data = await _download(origin)
    digest = hashlib.sha256(data).hexdigest()
    if digest != release.sha256:
        raise PluginRejected(
            "PluginDigestMismatch",
            f"{origin} has SHA-256 {digest}, but the marketplace's index promises {release.sha256}. "
            "Publish the release again, or ask the marketplace's owner who changed the file.",
        )
    await asyncio.to_thread(_keep, kept, data)
    return data


def read_bundled(package: str) -> bytes:
    """Return the artefact of a plugin package that is installed here. Raises `PluginRejected` when it is not."""
    try:
        root = resources.files(package)
    except ModuleNotFoundError as error:
        raise PluginRejected(
            "PluginFetchFailed",
            f"The bundled plugin package {package} is not installed beside the gateway. Install it.",
        ) from error
    files: dict[str, bytes] = {}
    _collect(root, package, files)
    return build_zip(files)


def _collect(folder: object, prefix: str, files: dict[str, bytes]) -> None:
    for entry in folder.iterdir():  # type: ignore[attr-defined]
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            if entry.name != "__pycache__":
                _collect(entry, name, files)
        elif is_part(name):
            files[name] = entry.read_bytes()


def _read_kept(path: Path, sha256: str) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() == sha256:
        return data
    path.unlink(missing_ok=True)
    return None


def _keep(path: Path, data: bytes) -> None:
    """Write the artefact whole or not at all. A cache that cannot be written costs a download at the next start, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError:
        return


async def _download(url: str) -> bytes:
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise PluginRejected(
            "PluginFetchFailed", f"{url} is neither http nor https. Correct the release's url in the index."
        )
    try:
        async with asyncio.timeout(FETCH_S), ClientSession(timeout=ClientTimeout(total=FETCH_S)) as session:
            for _ in range(_MAX_REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    if response.status in (301, 302, 303, 307, 308) and location:
                        url = _followed(url, location)
                        continue
                    if response.status != 200:
                        raise PluginRejected(
                            "PluginFetchFailed", f"{url} answered {response.status}; expected 200.", retryable=True
                        )
                    return await _bounded(response.content, url)
    except (ClientError, OSError, TimeoutError) as error:
        raise PluginRejected(
            "PluginFetchFailed",
            f"{url} could not be fetched: {error or type(error).__name__}. It is tried again.",
            retryable=True,
        ) from error
    raise PluginRejected("PluginFetchFailed", f"{url} redirects more than {_MAX_REDIRECTS} times.")


def _followed(url: str, location: str) -> str:
    target = urljoin(url, location)
    here, there = urlsplit(url).scheme, urlsplit(target).scheme
    if there != here and (here, there) != ("http", "https"):
        raise PluginRejected("PluginFetchFailed", f"{url} redirects from {here} to {there}, which is not followed.")
    return target


async def _bounded(content: object, url: str) -> bytes:
    data = bytearray()
    async for chunk in content.iter_chunked(2**16):  # type: ignore[attr-defined]
        data += chunk
        if len(data) > MAX_ARTEFACT_BYTES:
            raise PluginRejected("PluginArtefactInvalid", f"{url} is larger than {MAX_ARTEFACT_BYTES // 2**20} MiB.")
    return bytes(data)
