"""A marketplace on a web server: any that serves static files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nexus_core.marketplace.addresses import directory_url, public_url

from nexus_marketplace.downloading import DownloadFailed, TooLarge, authorizing, download, hidden, shown
from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, check_path
from nexus_marketplace.troubles import MarketplaceTrouble

if TYPE_CHECKING:
    from nexus_core.translate.market_access import Access

READ_S = 15.0
"""For one file. The largest, an index of 16 MiB, comes through 10 Mbit/s in that time."""
_ABSENT = frozenset({403, 404, 410})
"""Object stores answer 403 for what is not there to those that may not list."""


class Web:
    """Files below an address."""

    signed = True

    def __init__(self, url: str, *, total_s: float = READ_S, access: Access | None = None) -> None:
        """url: of the directory, or of the `index.json` in it; it may have a name and password, which are sent, and never shown.
        total_s: for one file, to its last byte. access: sent to this server alone.
        """
        self._address = directory_url(url)
        self.base_url = public_url(self._address)
        self.for_people = shown(self._address)
        self._total_s = total_s
        self._access = access

    def begin(self) -> None:
        """A web server is asked anew for each file."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """See `SourcePort.read`. Runs an event loop of its own: a deadline over headers, redirects and each byte needs one."""
        url = self._address + check_path(path)
        try:
            return asyncio.run(download(url, max_bytes, total_s=self._total_s, headers=authorizing(self._access)))
        except TooLarge as error:
            raise FileTooLarge(hidden(error, self._access)) from error
        except DownloadFailed as error:
            if error.status == 401:
                raise MarketplaceTrouble(
                    "MarketplaceUnreachable",
                    f"{self.for_people} asks for {'another' if self._access is not None else 'a'} login: it answered 401.",
                    "Correct the Secret that spec.source.secretRef names, or name one there; it is tried again by itself.",
                    retryable=True,
                ) from error
            if error.status in _ABSENT:
                raise FileMissing(f"{shown(url)} answered {error.status}.") from error
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                hidden(error, self._access),
                "Correct the address or its server; it is tried again by itself.",
                retryable=True,
            ) from error
