"""Files by their SHA-256: from the cache, from whoever else has them, from the installation, or over the network.

The cache is what lets a process start with the same plugins while the marketplace and PyPI are away. Whatever the way, the digest must
match; nothing else is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import Wheel, WheelNeed
from nexus_marketplace.downloading import DownloadFailed, TooLarge, download
from nexus_marketplace.fetching import BUNDLED, FETCH_S, MAX_ARTEFACT_BYTES, read_bundled
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting.means import Means

MAX_WHEEL_BYTES = 32 * 2**20
MAX_PAGE_BYTES = 16 * 2**20
WHEEL_S = 30.0
_PAGES = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


class Obtainer:
    """Where one process has its plugins' files from."""

    def __init__(self, cache: Path, means: Means) -> None:
        self._cache = cache
        self._means = means

    async def artefact(self, release: Release, base_url: str) -> bytes:
        """Return a release's artefact. base_url: what its address is relative to. Raises `PluginRejected`."""
        kept = self._cache / f"{release.sha256}.zip"
        data = await self._known(kept, release.sha256)
        if data is not None:
            return data
        if release.url.startswith(BUNDLED):
            data = await asyncio.to_thread(read_bundled, release.package)
            origin = f"the installed package {release.package}"
        else:
            origin = urljoin(base_url, release.url)
            data = await _download(origin, MAX_ARTEFACT_BYTES, FETCH_S, "PluginArtefactInvalid")
        digest = hashlib.sha256(data).hexdigest()
        if digest != release.sha256:
            raise PluginRejected(
                "PluginDigestMismatch",
                f"{origin} has SHA-256 {digest}, but the marketplace's index promises {release.sha256}. "
                "Publish the release again, or ask the marketplace's owner who changed the file.",
            )
        await asyncio.to_thread(_keep, kept, data)
        return data

    async def wheel(self, file: Wheel, need: WheelNeed, base_url: str) -> bytes:
        """Return a wheel's bytes. base_url: the marketplace's, which may have it, too. Raises `PluginRejected`."""
        kept = self._cache / f"{file.sha256}.whl"
        data = await self._known(kept, file.sha256)
        if data is not None:
            return data
        data, origin = await self._download_wheel(file, need, base_url)
        digest = hashlib.sha256(data).hexdigest()
        if digest != file.sha256:
            raise PluginRejected(
                "PluginDigestMismatch",
                f"{origin} has SHA-256 {digest}, but the plugin's release names {file.sha256} for {file.filename}. "
                "Ask who runs the index, or the plugin's publisher, who changed the file.",
            )
        await asyncio.to_thread(_keep, kept, data)
        return data

    async def _known(self, kept: Path, sha256: str) -> bytes | None:
        """Return what is in the cache, or what somebody else had, now in the cache, too; None for neither."""
        data = await asyncio.to_thread(_read_kept, kept, sha256)
        if data is not None or self._means.artefact is None:
            return data
        try:
            data = await self._means.artefact(sha256)
        except (OSError, TimeoutError):
            return None  # the network may have it
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            return None
        await asyncio.to_thread(_keep, kept, data)
        return data

    async def _download_wheel(self, file: Wheel, need: WheelNeed, base_url: str) -> tuple[bytes, str]:
        if file.url:
            origin = urljoin(base_url, file.url)
            return await _download(origin, MAX_WHEEL_BYTES, WHEEL_S, "WheelInvalid"), origin
        if urlsplit(base_url).scheme in ("http", "https"):
            origin = urljoin(base_url, f"wheels/{file.sha256}.whl")
            try:
                return await download(origin, MAX_WHEEL_BYTES, total_s=WHEEL_S), origin
            except DownloadFailed:
                pass  # a marketplace need not have it; the index is asked, and its failure told
        origin = await self._find_on_index(file, need)
        return await _download(origin, MAX_WHEEL_BYTES, WHEEL_S, "WheelInvalid"), origin

    async def _find_on_index(self, file: Wheel, need: WheelNeed) -> str:
        page = f"{self._means.pypi.rstrip('/')}/{need.name}/"
        body = await _download(page, MAX_PAGE_BYTES, WHEEL_S, "PluginFetchFailed", {"Accept": _PAGES})
        found = _addresses(body).get(file.filename)
        if found is None:
            raise PluginRejected(
                "PluginFetchFailed", f"{page} has no file {file.filename}. It is tried again.", retryable=True
            )
        return urljoin(page, found).partition("#")[0]


class _Links(HTMLParser):
    """The addresses of a page by their texts, which PEP 503 says are file names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href") if tag == "a" else None
        if address:
            self.found[unquote(urlsplit(address).path.rpartition("/")[2])] = address


def _addresses(page: bytes) -> dict[str, str]:
    """Return the addresses of an index page's files by name. Empty for what is no such page."""
    try:
        said = json.loads(page)
    except ValueError:
        links = _Links()
        links.feed(page.decode("utf-8", "replace"))
        return links.found
    files = said.get("files", ()) if isinstance(said, dict) else ()
    return {
        str(each["filename"]): str(each["url"])
        for each in files
        if isinstance(each, dict) and "filename" in each and "url" in each
    }


async def _download(
    url: str, max_bytes: int, total_s: float, too_large: str, headers: dict[str, str] | None = None
) -> bytes:
    try:
        return await download(url, max_bytes, total_s=total_s, headers=headers)
    except TooLarge as error:
        raise PluginRejected(too_large, str(error)) from error
    except DownloadFailed as error:
        again = " It is tried again." if error.retryable else ""
        raise PluginRejected("PluginFetchFailed", f"{error}{again}", retryable=error.retryable) from error


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
    """Write a file whole or not at all. A cache that cannot be written costs a download at the next start, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError:
        return
