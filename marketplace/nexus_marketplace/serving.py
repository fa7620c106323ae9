"""`nexus marketplace serve`: a directory's own files over HTTP, with a page for people; and its metadata kept fresh, if it may."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import Index, IndexInvalid, parse_index
from nexus_core.marketplace.index import MAX_INDEX_BYTES

from nexus_marketplace import listing
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.repository import Repository
from nexus_marketplace.sources.oci import FOLDERS
from nexus_marketplace.sources.ports import check_path

log = logging.getLogger("nexus.marketplace.serving")

REFRESH_S = 3600.0
"""How often it is looked whether half of the timestamp's time is over."""
_FOR_EVER = re.compile(
    r"metadata/[0-9]+\.[a-z]+\.json|(artefacts|wheels)/[0-9a-f]{64}\.[a-z]+|targets/[0-9a-f]{64}\.index\.json"
)
"""Names under which content never changes: a digest, or a version that is signed once."""
_TYPES = {".json": "application/json", ".zip": "application/zip", ".whl": "application/zip"}
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def build_app(directory: Path, title: str) -> web.Application:
    """Return the server of one marketplace: `/` for people, files for programs, nothing that is not the marketplace's."""
    app = web.Application()
    handlers = _Handlers(directory.resolve(), title)
    app.router.add_get("/", handlers.page)
    app.router.add_get("/{path:.+}", handlers.file)
    return app


def file_handler(directory: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of files alone, for a route with `path` in it."""
    return _Handlers(directory.resolve(), "").file


class _Handlers:
    def __init__(self, directory: Path, title: str) -> None:
        self._directory = directory
        self._title = title

    async def page(self, request: web.Request) -> web.StreamResponse:
        index, trouble = await asyncio.to_thread(self._read_index)
        if index is None:
            log.warning("%s", trouble)
            return web.Response(status=503, text="This marketplace has no index that can be read.\n", headers=_HEADERS)
        headers = {**_HEADERS, "Content-Security-Policy": listing.CSP, "Cache-Control": "no-cache"}
        response = web.Response(
            body=listing.render(index, self._title), content_type="text/html", charset="utf-8", headers=headers
        )
        response.enable_compression()
        return response

    async def file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        file = await asyncio.to_thread(self._find, path)
        if file is None:
            return web.Response(status=404, text=f"This marketplace has no file {path[:200]!r}.\n", headers=_HEADERS)
        cached = "public, max-age=31536000, immutable" if _FOR_EVER.fullmatch(path) else "no-cache"
        # FileResponse answers ranges, If-None-Match and If-Modified-Since.
        response = web.FileResponse(file, headers={**_HEADERS, "Cache-Control": cached})
        response.content_type = _TYPES.get(file.suffix, "application/octet-stream")
        return response

    def _find(self, path: str) -> Path | None:
        """Return a file of the marketplace. Others that lie in its directory, a key perhaps, are nobody's business."""
        try:
            check_path(path)
        except ValueError:
            return None
        folder, slash, _ = path.partition("/")
        if path != "index.json" and not (slash and folder in FOLDERS):
            return None
        file = self._directory / path
        with suppress(OSError, RuntimeError):
            if file.is_file() and file.resolve().is_relative_to(self._directory):
                return file
        return None

    def _read_index(self) -> tuple[Index | None, str]:
        path = self._directory / "index.json"
        try:
            with path.open("rb") as file:
                return parse_index(file.read(MAX_INDEX_BYTES + 1), str(path)), ""
        except (OSError, IndexInvalid) as error:
            return None, f"{path} cannot be read: {error}"


async def keep_fresh(
    repository: Repository,
    keys: tuple[Ed25519PrivateKey, ...],
    *,
    every_s: float = REFRESH_S,
    now_utc: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Sign timestamp and snapshot anew whenever half of their time is over, until cancelled. What fails is logged and tried again."""
    while True:
        try:
            if await asyncio.to_thread(repository.is_stale, now_utc()):
                roles = await asyncio.to_thread(repository.refresh, keys, now_utc())
                log.info("signed %s anew", ", ".join(roles))
        except (PublishRefused, OSError) as error:
            log.error("the metadata cannot be signed anew: %s", error)
        await asyncio.sleep(every_s)
