"""What python-tuf needs of us: files from a `SourcePort`, and what its client left in a state directory. Imports tuf; few need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface

from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, SourcePort
from nexus_marketplace.trust import Versions


class Fetcher(FetcherInterface):
    """Reads metadata from a source. last: path of the file that was asked for last, for messages."""

    def __init__(self, source: SourcePort) -> None:
        self._source = source
        self.last = ""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return the file. url: a path below the marketplace's directory. `MarketplaceTrouble` passes through."""
        self.last = url
        try:
            return self._source.read(url, max_length)
        except FileMissing as error:
            raise exceptions.DownloadHTTPError(str(error), 404) from error
        except FileTooLarge as error:
            raise exceptions.DownloadLengthMismatchError(str(error)) from error

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError(f"{url}: files are read whole, by download_bytes")


@dataclass(frozen=True, slots=True)
class Roles:
    """The metadata that is trusted. history: roots by version, from the first one that was trusted to the newest."""

    versions: Versions
    history: dict[int, Metadata[Root]]


def read_roles(state: Path) -> Roles:
    """Return what the client trusts and kept. Raises OSError, and RepositoryError for what is damaged: both just after it wrote it."""
    root = Metadata[Root].from_file(str(state / "root.json"))
    parts: dict[str, Metadata[Any]] = {"root": root}
    for role in ("timestamp", "snapshot", "targets"):
        parts[role] = Metadata.from_file(str(state / f"{role}.json"))
    history: dict[int, Metadata[Root]] = {}
    for version in range(1, root.signed.version + 1):
        try:
            history[version] = Metadata[Root].from_file(str(state / "root_history" / f"{version}.root.json"))
        except (OSError, DeserializationError, exceptions.StorageError):
            history.clear()  # only what leads to the newest without a gap was verified
    expires = min(part.signed.expires for part in parts.values())
    versions = Versions(**{role: part.signed.version for role, part in parts.items()}, expires_utc=expires.isoformat())
    return Roles(versions, history)


def timestamp_of(path: Path) -> int:
    """Return the version of a timestamp's file, 0 where there is none that can be read. Its signature is not looked at."""
    try:
        return int(Metadata.from_file(str(path)).signed.version)
    except (OSError, exceptions.StorageError, DeserializationError):
        return 0


def expiries(state: Path, otherwise: str) -> str:
    """Return which kept metadata expires when, for a message; `otherwise` where nothing is kept."""
    found = []
    for role in ("root", "timestamp", "snapshot", "targets"):
        try:
            expires = Metadata.from_file(str(state / f"{role}.json")).signed.expires
        except (OSError, exceptions.StorageError, DeserializationError):
            continue
        found.append(f"{role} {expires:%Y-%m-%d %H:%M} UTC")
    return f"{otherwise} ({', '.join(found)})" if found else otherwise
