"""Following a marketplace: from pinned keys to an index that is signed, current, whole and no older than the last.

The client workflow is that of The Update Framework (specification 1.0, section 5), by python-tuf's ngclient. What is ours: the first
root is found by the keys that the NexusMarketplace pins instead of being shipped; a floor of versions that outlives the state
directory; and the words for what goes wrong (`doubts`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
from nexus_core.marketplace import Index, IndexInvalid, parse_index
from nexus_core.marketplace.index import MAX_INDEX_BYTES

from nexus_marketplace import durable, roots
from nexus_marketplace.doubts import Doubts
from nexus_marketplace.sources.hurried import Hurried
from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, SourcePort
from nexus_marketplace.troubles import AGAIN, MarketplaceTrouble

if TYPE_CHECKING:
    from nexus_core.model.plugins import NexusMarketplaceSpec
    from tuf.api.metadata import Metadata, Root

INDEX = "index.json"
MAX_ROOT_BYTES = 512_000
_BOOTSTRAP_ROOTS = 64
"""How many root versions are looked through for one that the pinned keys signed."""


class Versions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which metadata was last trusted. Nothing older is, afterwards. expires_utc: ISO 8601, of the part that expires first."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    expires_utc: str = ""


@dataclass(frozen=True, slots=True)
class Pins:
    """Who may sign the first root. keys: raw Ed25519, base64. threshold: how many of them must have."""

    keys: tuple[str, ...]
    threshold: int = 1


def pins_of(spec: NexusMarketplaceSpec) -> Pins:
    """Return what a NexusMarketplace pins: its root keys, else its publishers'."""
    keys = spec.trust.root_keys or tuple(publisher.public_key for publisher in spec.publishers)
    return Pins(tuple(sorted(set(keys))), spec.trust.threshold)


class Followed:
    """One marketplace as it is trusted here. Calls block; several threads and processes may share the state directory."""

    def __init__(
        self,
        source: SourcePort,
        pins: Pins,
        state_dir: Path,
        floor: Versions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        forget: str = "",
    ) -> None:
        """state_dir: this marketplace's own; it is made, and may be lost: then `floor` alone keeps rolled back files out.

        floor: versions that were trusted before, from somewhere that outlives the state directory. clock: seconds, for `UPDATE_S`.
        forget: how people have this marketplace trusted anew, as the end of a sentence; empty: by deleting the state.
        """
        self._source = Hurried(source, clock)
        self._pins = pins
        # Other pins are another trust: what the former ones led to is not built upon.
        told = "\n".join((*sorted(pins.keys), str(pins.threshold))).encode()
        self._state = state_dir / hashlib.sha256(told).hexdigest()[:16]
        self._floor = floor or Versions()
        self._doubts = Doubts(source.for_people, self._state, forget or f"delete {self._state}")

    @property
    def for_people(self) -> str:
        """How messages name the marketplace."""
        return self._source.for_people

    def update(self) -> tuple[Index, Versions]:
        """Return the marketplace's index as it is now, with the versions that prove it. Raises `MarketplaceTrouble`."""
        self._source.begin()
        if not self._source.signed:
            return self._parse(self._read(INDEX, MAX_INDEX_BYTES)), Versions()
        try:
            self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(self._state / ".lock"):
                return self._update()
        except OSError as error:
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                f"What is known of {self._source.for_people} cannot be kept in {self._state}: {error}.",
                "Make the directory writable, with room in it.",
                retryable=True,
            ) from error

    def last(self) -> tuple[Index, Versions] | None:
        """Return what `update` last returned in this state directory; None without it. For when the marketplace cannot be reached.

        It may have expired since: `Versions.expires_utc` says so.
        """
        try:
            versions = self._kept_versions()
            data = (self._state / INDEX).read_bytes()
            if hashlib.sha256(data).hexdigest() != (self._state / "index.sha256").read_text().strip():
                return None
            return parse_index(data, self._source.base_url), versions
        except (OSError, IndexInvalid, UnicodeDecodeError):
            return None

    def files(self) -> dict[str, bytes]:
        """Return the metadata and the index that `update` trusted, by path as a marketplace has them; roots from the first trusted one.

        Raises OSError before the first `update`.
        """
        versions = self._kept_versions()
        found = {f"metadata/{path.name}": path.read_bytes() for path in roots.kept_roots(self._state)}
        names = {
            "timestamp": "timestamp",
            "snapshot": f"{versions.snapshot}.snapshot",
            "targets": f"{versions.targets}.targets",
        }
        for role, name in names.items():
            found[f"metadata/{name}.json"] = (self._state / f"{role}.json").read_bytes()
        index = (self._state / INDEX).read_bytes()
        found[f"targets/{hashlib.sha256(index).hexdigest()}.{INDEX}"] = found[INDEX] = index
        return found

    def _update(self) -> tuple[Index, Versions]:
        from tuf.api import exceptions
        from tuf.ngclient import Updater, UpdaterConfig

        from nexus_marketplace import tufs

        bootstrap = self._find_root()
        config = UpdaterConfig(prefix_targets_with_hash=True, root_max_length=MAX_ROOT_BYTES)
        fetcher = tufs.Fetcher(self._source)
        try:
            updater = Updater(str(self._state), "metadata", fetcher=fetcher, config=config, bootstrap=bootstrap)
            updater.refresh()
            target = updater.get_targetinfo(INDEX)
        except exceptions.RepositoryError as error:
            raise self._doubts.of(error, fetcher.last) from error
        except exceptions.DownloadLengthMismatchError as error:
            raise self._doubts.swapped(fetcher.last, str(error)) from error
        except exceptions.DownloadHTTPError as error:
            raise MarketplaceTrouble(
                "MarketplaceInvalid",
                f"{self._source.for_people} has no {fetcher.last}, which its signed metadata needs.",
                f"Copy all files of the marketplace there, `metadata/timestamp.json` last. {AGAIN}",
                retryable=True,
            ) from error
        if target is None:
            raise MarketplaceTrouble(
                "MarketplaceInvalid",
                f"The signed metadata of {self._source.for_people} names no {INDEX}.",
                "Build it with `nexus marketplace build`.",
            )
        roles = tufs.read_roles(self._state)
        versions = roles.versions
        self._refuse_older(versions, roles.history)
        return self._index(target, versions)

    # ---- the first root

    def _find_root(self) -> bytes:
        """Return a root that the pinned keys signed: the oldest one kept here, else the first one of the marketplace."""
        for path in roots.kept_roots(self._state):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            if self._is_pinned(data):
                return data
        for version in range(1, _BOOTSTRAP_ROOTS + 1):
            try:
                data = self._read(f"metadata/{version}.root.json", MAX_ROOT_BYTES)
            except FileMissing as error:
                if version > 1:
                    break
                raise MarketplaceTrouble(
                    "MarketplaceInvalid",
                    f"{self._source.for_people} is no signed marketplace: {error}",
                    "Name the directory that `nexus marketplace build` writes, and serve all of it.",
                    retryable=True,
                ) from error
            if self._is_pinned(data):
                return data
        raise MarketplaceTrouble(
            "MarketplaceNotTrusted",
            f"No root metadata of {self._source.for_people} is signed by {self._pins.threshold} of the {len(self._pins.keys)} pinned keys.",
            "Ask its owner for the key, through another channel, and pin it in spec.trust.rootKeys (or spec.publishers). "
            "Do not, if you cannot ask.",
        )

    def _is_pinned(self, data: bytes) -> bool:
        from tuf.api.metadata import Metadata, Root
        from tuf.api.serialization import DeserializationError

        try:
            metadata = Metadata[Root].from_bytes(data)
        except DeserializationError:
            return False
        return (
            metadata.signed.type == Root.type and roots.count_signers(metadata, self._pins.keys) >= self._pins.threshold
        )

    # ---- no going back

    def _kept_versions(self) -> Versions:
        try:
            return msgspec.json.decode((self._state / "versions.json").read_bytes(), type=Versions)
        except (OSError, msgspec.DecodeError):
            return Versions()

    def _refuse_older(self, versions: Versions, history: dict[int, Metadata[Root]]) -> None:
        for floor in (self._floor, self._kept_versions()):
            for role in ("root", "timestamp", "snapshot", "targets"):
                now, then = getattr(versions, role), getattr(floor, role)
                # A root with other keys for a role starts its versions anew (TUF 5.3.11): whoever stole the old key may have raised them.
                if now < then and not roots.is_rekeyed(role, floor.root, history):
                    raise self._doubts.rolled_back(f"{role} metadata {now}, and {then} was trusted before")

    # ---- the index

    def _index(self, target: Any, versions: Versions) -> tuple[Index, Versions]:
        digest = str(target.hashes.get("sha256", ""))
        length = int(target.length)
        path = f"targets/{digest}.{INDEX}"
        data = self._kept_index(digest)
        if data is None:
            if length > MAX_INDEX_BYTES:
                raise MarketplaceTrouble(
                    "MarketplaceInvalid",
                    f"The index of {self._source.for_people} has {length} bytes; at most {MAX_INDEX_BYTES} are read.",
                    "Split the marketplace in two.",
                )
            try:
                data = self._read(path, length)
            except FileMissing as error:
                raise MarketplaceTrouble(
                    "MarketplaceInvalid",
                    str(error),
                    f"Copy all files of the marketplace there. {AGAIN}",
                    retryable=True,
                ) from error
            if len(data) != length or hashlib.sha256(data).hexdigest() != digest:
                raise self._doubts.swapped(
                    path, f"it has {len(data)} bytes with SHA-256 {hashlib.sha256(data).hexdigest()}"
                )
        index = self._parse(data)
        # The index first: with versions that lack their index, `last` would have nothing to return.
        durable.write(self._state / INDEX, data)
        durable.write(self._state / "index.sha256", f"{digest}\n".encode())
        durable.write(self._state / "versions.json", msgspec.json.encode(versions))
        return index, versions

    def _kept_index(self, digest: str) -> bytes | None:
        try:
            data = (self._state / INDEX).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def _parse(self, data: bytes) -> Index:
        try:
            return parse_index(data, self._source.base_url)
        except IndexInvalid as error:
            raise MarketplaceTrouble(
                "MarketplaceInvalid", str(error), "Build it with `nexus marketplace build` of this release of Nexus."
            ) from error

    def _read(self, path: str, max_bytes: int) -> bytes:
        try:
            return self._source.read(path, max_bytes)
        except FileTooLarge as error:
            raise self._doubts.swapped(path, str(error)) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the state directory: two processes that write it at once could each lose what the other trusted."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    file: IO[bytes]
    with os.fdopen(descriptor, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
