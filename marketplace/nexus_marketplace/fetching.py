"""Artefacts and wheels by digest, wherever they can be had. Whatever the way, the digest must match.

In this order: the cache on disk; what is installed here; another place that the caller knows; the marketplace; for wheels, PyPI.
The data plane imports this module: it needs neither TUF nor JSON Schema nor cryptography.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from nexus_core.marketplace.artefact import build_zip, is_part
from nexus_core.snapshot import PluginInstance, Release

from nexus_marketplace.cache import Cache
from nexus_marketplace.downloading import DownloadFailed, TooLarge, authorizing, download, hidden, shown
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, check_path
from nexus_marketplace.troubles import MarketplaceTrouble

if TYPE_CHECKING:
    from nexus_core.translate.market_access import Access

log = logging.getLogger("nexus.marketplace.fetching")

MAX_ARTEFACT_BYTES = 4 * 2**20
FETCH_S = 5.0
BUNDLED = "bundled:"

Elsewhere = Callable[[str], Awaitable[bytes | None]]
"""Another place: SHA-256 → bytes, None when it has none such."""


async def fetch(instance: PluginInstance, cache: Path, *, artefact: Elsewhere | None = None) -> bytes:
    """Return the verified artefact of an instance. See `fetch_release`."""
    return await fetch_release(instance.release, instance.base_url, cache, artefact=artefact)


async def fetch_release(
    release: Release, base_url: str, cache: Path, *, artefact: Elsewhere | None = None, access: Access | None = None
) -> bytes:
    """Return the verified artefact of a release. base_url: of its marketplace. artefact: another place, asked before the network.
    access: to the marketplace.

    Raises `PluginRejected`: PluginFetchFailed, PluginDigestMismatch, PluginArtefactInvalid.
    """
    kept = Cache(cache)
    data = await asyncio.to_thread(kept.read, release.sha256, "zip")
    if data is not None:
        return data
    bundled = release.url.startswith(BUNDLED)
    if bundled:
        data = await asyncio.to_thread(_installed, release)
    if data is None:
        data = await elsewhere(artefact, release.sha256)
    if data is None and bundled:
        read_bundled(release.package)  # says which package to install
        raise PluginRejected(
            "PluginDigestMismatch",
            f"The installed package {release.package} is not {release.name} {release.version} as it was signed: its SHA-256 differs. "
            f"Install the release of Nexus that ships with {release.name} {release.version}, or choose the version that this one has.",
        )
    if data is None:
        data = await from_marketplace(base_url, release.url, MAX_ARTEFACT_BYTES, FETCH_S, access)
        if len(data) > MAX_ARTEFACT_BYTES:
            raise PluginRejected(
                "PluginArtefactInvalid", f"{release.url} is larger than {MAX_ARTEFACT_BYTES // 2**20} MiB."
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != release.sha256:
            raise PluginRejected(
                "PluginDigestMismatch",
                f"{shown(place(base_url, release.url))} has SHA-256 {digest}, but the marketplace's index promises {release.sha256}. "
                "Publish the release again, or ask the marketplace's owner who changed the file. It is tried again.",
                retryable=True,  # the wrong file is at a place, not of the release: the right one may be put there again
            )
    await asyncio.to_thread(kept.keep, release.sha256, "zip", data)
    return data


async def elsewhere(ask: Elsewhere | None, sha256: str) -> bytes | None:
    """Return what the other place has under this digest, None where it has nothing right. It is not relied upon: it may fail."""
    if ask is None:
        return None
    try:
        data = await ask(sha256)
    except Exception as error:
        log.warning("%s could not be had from the other place: %s: %s", sha256, type(error).__name__, error)
        return None
    if data is not None and hashlib.sha256(data).hexdigest() != sha256:
        log.warning("the other place has something else under %s; it is left alone", sha256)
        return None
    return data


def place(base_url: str, url: str) -> str:
    """Return the address that a release's `url` means."""
    return url if "://" in url else f"{base_url.removesuffix('index.json').rstrip('/')}/{url}"


async def from_marketplace(
    base_url: str, url: str, max_bytes: int, total_s: float, access: Access | None = None
) -> bytes:
    """Return a file of a marketplace, its digest not yet checked. base_url, url: see `place`. access: to the marketplace; a file that is
    at an address of its own is asked for without it.

    Raises `PluginRejected` with PluginFetchFailed or PluginArtefactInvalid.
    """
    where = place(base_url, url)
    scheme = where.partition("://")[0]
    mine = access if "://" not in url else None
    try:
        if scheme in ("http", "https"):
            return await download(where, max_bytes, total_s=total_s, headers=authorizing(mine))
        if scheme == "file":
            from nexus_marketplace.sources.local import Directory

            folder = Directory(Path(unquote(urlsplit(base_url).path)))
            return await asyncio.to_thread(folder.read, check_path(url), max_bytes)
        if scheme in ("oci", "oci+http"):
            from nexus_marketplace.sources.oci import Registry, find_login, parse

            reference = parse(base_url.partition("://")[2].removesuffix("index.json").rstrip("/"))
            login = find_login(reference.host)
            registry = Registry(reference, plain_http=scheme == "oci+http", login=login, total_s=total_s, access=mine)
            return await registry.fetch(check_path(url), max_bytes)
    except (TooLarge, FileTooLarge) as error:
        raise PluginRejected("PluginArtefactInvalid", f"{hidden(error, mine)} Publish a smaller one.") from error
    except DownloadFailed as error:
        again = " It is tried again." if error.retryable else ""
        raise PluginRejected("PluginFetchFailed", f"{hidden(error, mine)}{again}", retryable=error.retryable) from error
    except MarketplaceTrouble as error:
        raise PluginRejected("PluginFetchFailed", str(error), retryable=error.retryable) from error
    except FileMissing as error:
        raise PluginRejected(
            "PluginFetchFailed", f"{error} Copy all files of the marketplace there. It is tried again.", retryable=True
        ) from error
    except ValueError as error:
        raise PluginRejected("PluginFetchFailed", f"{error} Correct the release's url in the index.") from error
    if scheme == "configmap":
        raise PluginRejected(
            "PluginFetchFailed",
            f"{shown(where)} is in a ConfigMap, which gateways do not read; the operator has not put it into Consul yet. It is tried "
            "again.",
            retryable=True,
        )
    raise PluginRejected(
        "PluginFetchFailed", f"{shown(where)} is neither http nor https. Correct the release's url in the index."
    )


def _installed(release: Release) -> bytes | None:
    """Return the installed package's artefact, None when it is not this release's."""
    try:
        data = read_bundled(release.package)
    except PluginRejected:
        return None
    return data if hashlib.sha256(data).hexdigest() == release.sha256 else None


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
