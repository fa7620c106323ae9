"""Wheels that plugins run with: the file that fits this interpreter, and its bytes. Nothing of a wheel is installed or run here.

Source: PEP 427 (file names), PEP 425 (tags), PEP 503 and PEP 691 (the index's pages).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from nexus_core.snapshot import Wheel, WheelNeed
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from nexus_marketplace.cache import Cache
from nexus_marketplace.downloading import DownloadFailed, TooLarge, download
from nexus_marketplace.fetching import Elsewhere, elsewhere, from_marketplace
from nexus_marketplace.rejections import PluginRejected

if TYPE_CHECKING:
    from nexus_core.translate.market_access import Access

PYPI = "https://pypi.org/simple/"
MAX_WHEEL_BYTES = 64 * 2**20
FETCH_S = 60.0
_PAGE_S = 10.0
_MAX_PAGE_BYTES = 32 * 2**20
"""Of an index's page on one distribution; the longest on PyPI have some 10 MiB."""
_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


def pick(need: WheelNeed, tags: Iterable[Tag] | None = None) -> Wheel:
    """Return the file of a distribution that fits best. tags: of the interpreter, best first; None for this one's.

    Raises `PluginRejected` (WheelInvalid) when none fits.
    """
    order = {tag: rank for rank, tag in enumerate(sys_tags() if tags is None else tags)}
    found: list[tuple[int, str, Wheel]] = []
    for file in need.files:
        try:
            name, _, _, of = parse_wheel_filename(file.filename)
        except (InvalidWheelFilename, InvalidVersion) as error:
            raise PluginRejected(
                "WheelInvalid", f"{file.filename} is no wheel. Ask the plugin's publisher to correct it."
            ) from error
        if name != canonicalize_name(need.name):
            raise PluginRejected(
                "WheelInvalid", f"{file.filename} is no wheel of {need.name}. Ask the plugin's publisher to correct it."
            )
        ranks = [order[tag] for tag in of if tag in order]
        if ranks:
            found.append((min(ranks), file.filename, file))
    if not found:
        raise PluginRejected(
            "WheelInvalid",
            f"{need.name} {need.version} has no wheel for this interpreter; there are {', '.join(file.filename for file in need.files)}. "
            "Ask the plugin's publisher for one, or run a Python that one of them is for.",
        )
    return min(found)[2]


def wheel_tags(wheel: Wheel) -> list[Tag]:
    """Return the tags in a wheel's name: with them `fetch_wheel` takes it for whatever interpreter. Raises `PluginRejected`."""
    try:
        return sorted(parse_wheel_filename(wheel.filename)[3], key=str)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise PluginRejected(
            "WheelInvalid", f"{wheel.filename} is no wheel. Ask the plugin's publisher to correct it."
        ) from error


async def fetch_wheel(
    need: WheelNeed,
    cache: Path,
    *,
    base_url: str = "",
    artefact: Elsewhere | None = None,
    pypi: str = PYPI,
    tags: Iterable[Tag] | None = None,
    access: Access | None = None,
) -> tuple[Wheel, bytes]:
    """Return the file of a distribution that fits, and its verified bytes.

    base_url: of the marketplace that the release is from, which may have wheels of its own; empty for none. artefact: another place,
    asked before the network. pypi: an index. tags: see `pick`. access: to the marketplace, and to it alone.
    Raises `PluginRejected`: WheelInvalid, PluginFetchFailed, PluginDigestMismatch.
    """
    wheel = pick(need, tags)
    kept = Cache(cache)
    data = await asyncio.to_thread(kept.read, wheel.sha256, "whl")
    if data is None:
        data = await elsewhere(artefact, wheel.sha256)
        if data is None:
            data = await _from_network(need, wheel, base_url, pypi, access)
        await asyncio.to_thread(kept.keep, wheel.sha256, "whl", data)
    return wheel, data


async def _from_network(need: WheelNeed, wheel: Wheel, base_url: str, pypi: str, access: Access | None) -> bytes:
    """Try the marketplace's own copy, the address in the release, then the index; say of all why not."""
    tried: list[str] = []
    retryable = False
    if base_url:
        try:
            data = await from_marketplace(base_url, f"wheels/{wheel.sha256}.whl", MAX_WHEEL_BYTES, FETCH_S, access)
            if hashlib.sha256(data).hexdigest() == wheel.sha256:
                return data
            tried.append(f"the marketplace's copy has SHA-256 {hashlib.sha256(data).hexdigest()}")
        except PluginRejected as error:
            # Most marketplaces have no copies.
            tried.append(error.message)
            retryable = retryable or error.retryable
    try:
        url = wheel.url or await find_on_index(need.name, wheel.filename, pypi)
        data = await download(url, MAX_WHEEL_BYTES, total_s=FETCH_S)
    except TooLarge as error:
        raise PluginRejected("WheelInvalid", f"{error} Choose a plugin with smaller wheels.") from error
    except DownloadFailed as error:
        tried.append(str(error))
        raise PluginRejected(
            "PluginFetchFailed",
            f"{wheel.filename}: {' '.join(tried)} It is tried again.",
            retryable=retryable or error.retryable,
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != wheel.sha256:
        raise PluginRejected(
            "PluginDigestMismatch",
            f"{url} has SHA-256 {digest}, but the plugin's publisher pinned {wheel.sha256}. Ask them which is right before you trust it. "
            "It is tried again.",
            retryable=True,  # as of an artefact: the right file may be put there again
        )
    return data


async def find_on_index(name: str, filename: str, pypi: str) -> str:
    """Return where an index has a file. name: of the distribution. Raises `DownloadFailed`."""
    page = f"{pypi.rstrip('/')}/{canonicalize_name(name)}/"
    data = await download(page, _MAX_PAGE_BYTES, total_s=_PAGE_S, headers={"Accept": _ACCEPT})
    for found, url in _listed(data, page):
        if found == filename:
            if urlsplit(url).scheme not in ("http", "https"):
                raise DownloadFailed(f"{page} has {filename} at {url!r:.200}, which is neither http nor https.")
            return url
    raise DownloadFailed(f"{page} has no {filename}; it may have been withdrawn.")


def _listed(data: bytes, page: str) -> list[tuple[str, str]]:
    """Return (file name, address) of each file on an index's page, JSON or HTML."""
    if data.lstrip()[:1] == b"{":
        try:
            files = json.loads(data)["files"]
            return [(str(file["filename"]), urljoin(page, str(file["url"]))) for file in files]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DownloadFailed(f"{page} is no page of an index: {type(error).__name__}: {error}.") from error
    reader = _Anchors()
    reader.feed(data.decode(errors="replace"))
    return [(text.strip(), urljoin(page, href)) for text, href in reader.found]


class _Anchors(HTMLParser):
    """Text and `href` of each link."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._href: str | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._href, self._text = dict(attrs).get("href"), ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._href is not None:
            self.found.append((self._text, self._href))
            self._href = None
