"""The marketplace's own files: TUF metadata, written so that readers see one state or the next, whatever breaks in between.

Order of writing: everything that the timestamp leads to, each under a name of its own, then `metadata/timestamp.json`, in one step.
Nothing is ever removed: who reads the former state while the next is written finds all of it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace.index import MAX_INDEX_BYTES
from tuf.api import exceptions
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from nexus_marketplace import durable, signers
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.signers import Keys

__all__ = ["INDEX", "Keys", "Lifetimes", "Repository"]

INDEX = "index.json"
_WRITTEN = JSONSerializer(compact=False)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """For how many days a signature counts. The online roles are short, since they are what keeps old files from being served for
    ever; they are signed again by `refresh`, best every day."""

    timestamp_days: float = 30
    snapshot_days: float = 30
    targets_days: float = 180
    root_days: float = 365


@dataclass(slots=True)
class _State:
    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    index: bytes


class Repository:
    """A marketplace's directory."""

    def __init__(
        self,
        directory: Path,
        lifetimes: Lifetimes = Lifetimes(),
        write: Callable[[Path, bytes], None] = durable.write,
    ) -> None:
        """write: replaces a file whole or not at all."""
        self._directory = directory
        self._metadata = directory / "metadata"
        self._lifetimes = lifetimes
        self._write = write

    @property
    def exists(self) -> bool:
        """Whether there is signed metadata."""
        return (self._metadata / "timestamp.json").exists()

    def read_index(self) -> bytes | None:
        """Return the index that the metadata means; a plain `index.json` of an earlier release of Nexus, without metadata; or None.

        Raises `PublishRefused` for files that do not belong together.
        """
        if self.exists:
            return self._read().index
        try:
            return (self._directory / INDEX).read_bytes()
        except FileNotFoundError:
            return None

    def root_keys(self) -> tuple[tuple[str, ...], int]:
        """Return the root's public keys, as a NexusMarketplace pins them, and how many of them sign. Raises `PublishRefused`."""
        root = self._newest_root().signed
        return signers.public_values(root, "root"), root.roles["root"].threshold

    def is_stale(self, now_utc: datetime) -> bool:
        """Whether more than half of the timestamp's or the snapshot's time is over. Raises `PublishRefused`."""
        state = self._read()
        return _is_old(state.timestamp.signed.expires, self._lifetimes.timestamp_days, now_utc) or _is_old(
            state.snapshot.signed.expires, self._lifetimes.snapshot_days, now_utc
        )

    def publish(
        self,
        index: bytes | Callable[[bytes | None], bytes],
        files: Mapping[str, bytes],
        keys: Keys,
        now_utc: datetime,
    ) -> bytes:
        """Write the index and the files that it names, and sign it; return the index.

        index: or what makes it of the former one, while nobody else writes. files: by path below the directory.
        Raises `PublishRefused` when the keys are not those of the marketplace that is there, and what `index` raises.
        """
        with self._held():
            if callable(index):
                index = index(self.read_index())
            if len(index) > MAX_INDEX_BYTES:
                raise PublishRefused(
                    f"The index would have {len(index)} bytes, and at most {MAX_INDEX_BYTES} are read. Split the marketplace in two."
                )
            state = self._read() if self.exists else None
            root = self._checked(state, keys) if state is not None else self._first_root(keys, now_utc)
            for path, data in sorted(files.items()):
                self._write(self._directory / path, data)
            target = TargetFile.from_data(INDEX, index, ["sha256"])
            self._write(self._directory / "targets" / f"{target.hashes['sha256']}.{INDEX}", index)
            version = self._next("targets", state.targets if state else None)
            targets = Metadata(
                Targets(version, expires=_after(now_utc, self._lifetimes.targets_days), targets={INDEX: target})
            )
            signers.sign(targets, [keys.targets])
            if state is None:
                self._write_versioned(root)
            self._finish(targets, state, [keys.online], now_utc)
            # For people and other tools; Nexus reads the one that is named by its digest.
            self._write(self._directory / INDEX, index)
            return index

    def refresh(self, keys: Sequence[Ed25519PrivateKey], now_utc: datetime) -> tuple[str, ...]:
        """Sign timestamp and snapshot anew; and targets and root too where these keys may and half their time is over.

        Returns the roles that were signed. Raises `PublishRefused` when the keys are not those of timestamp and snapshot.
        """
        with self._held():
            state = self._read()
            root, done = state.root, ["snapshot", "timestamp"]
            online = signers.held_by(root.signed, "timestamp", keys)
            if not online or not signers.held_by(root.signed, "snapshot", keys):
                raise PublishRefused(
                    f"None of these keys signs timestamp and snapshot of {self._directory}. "
                    f"Give the key whose public half is {signers.public_keys(root.signed, 'timestamp')}."
                )
            targets = state.targets
            if signers.held_by(root.signed, "targets", keys) and _is_old(
                targets.signed.expires, self._lifetimes.targets_days, now_utc
            ):
                version = self._next("targets", targets)
                targets = Metadata(
                    Targets(
                        version, expires=_after(now_utc, self._lifetimes.targets_days), targets=targets.signed.targets
                    )
                )
                signers.sign(targets, signers.held_by(root.signed, "targets", keys))
                done.append("targets")
            root_signers = signers.held_by(root.signed, "root", keys)
            if len(root_signers) >= root.signed.roles["root"].threshold and _is_old(
                root.signed.expires, self._lifetimes.root_days, now_utc
            ):
                renewed = Root.from_dict(root.signed.to_dict())
                renewed.version = self._next("root", root)
                renewed.expires = _after(now_utc, self._lifetimes.root_days)
                new_root = Metadata(renewed)
                signers.sign(new_root, root_signers)
                self._write_versioned(new_root)
                done.append("root")
            self._finish(targets, state, online, now_utc)
            return tuple(sorted(done))

    def rotate_root(
        self, old: Sequence[Ed25519PrivateKey], new: Keys, also: Sequence[Ed25519PrivateKey], now_utc: datetime
    ) -> int:
        """Write the next root, with the new keys, signed by the old ones too; return its version.

        old: at least as many of the present root's keys as its threshold. also: present keys of targets, timestamp and snapshot, where
        they differ from the new ones: until the new root is there, clients go by them.
        Raises `PublishRefused`.
        """
        with self._held():
            state = self._read()
            present = state.root.signed
            needed = present.roles["root"].threshold
            old_signers = signers.held_by(present, "root", old)
            if len(old_signers) < needed:
                raise PublishRefused(
                    f"The root of {self._directory} is signed by {needed} of the keys {signers.public_keys(present, 'root')}; "
                    f"{len(old_signers)} of them were given. Give the others too: clients follow no root that the old keys did not sign."
                )
            root = signers.make_root(new, self._next("root", state.root), _after(now_utc, self._lifetimes.root_days))
            signers.sign(root, [*old_signers, *new.root])
            at_hand = [*old, *also, *new.root, new.targets, new.online]
            signing = {
                role: signers.distinct(
                    [*signers.held_by(present, role, at_hand), *signers.held_by(root.signed, role, at_hand)]
                )
                for role in ("targets", "timestamp", "snapshot")
            }
            for role in ("targets", "timestamp", "snapshot"):
                if not signers.held_by(present, role, at_hand):
                    raise PublishRefused(
                        f"The key that signs {role} now, {signers.public_keys(present, role)}, was not given. "
                        "Give it too: until clients have the new root, they accept nothing else."
                    )
            version = self._next("targets", state.targets)
            targets = Metadata(
                Targets(
                    version, expires=_after(now_utc, self._lifetimes.targets_days), targets=state.targets.signed.targets
                )
            )
            signers.sign(targets, signing["targets"])
            # Signed by the old keys and the new: right before the new root is there, and after.
            self._finish(targets, state, signers.distinct([*signing["timestamp"], *signing["snapshot"]]), now_utc)
            self._write_versioned(root)
            return root.signed.version

    # ---- reading what is there

    def _read(self) -> _State:
        """Return the present state, its signatures and digests checked. Raises `PublishRefused`."""
        try:
            root = self._newest_root()
            timestamp = Metadata[Timestamp].from_file(str(self._metadata / "timestamp.json"))
            snapshot_meta = timestamp.signed.snapshot_meta
            snapshot_data = (self._metadata / f"{snapshot_meta.version}.snapshot.json").read_bytes()
            snapshot_meta.verify_length_and_hashes(snapshot_data)
            snapshot = Metadata[Snapshot].from_bytes(snapshot_data)
            targets_meta = snapshot.signed.meta["targets.json"]
            targets_data = (self._metadata / f"{targets_meta.version}.targets.json").read_bytes()
            targets_meta.verify_length_and_hashes(targets_data)
            targets = Metadata[Targets].from_bytes(targets_data)
            for role, part in (("timestamp", timestamp), ("snapshot", snapshot), ("targets", targets)):
                root.signed.verify_delegate(role, part.signed_bytes, part.signatures)
            target = targets.signed.targets[INDEX]
            index = (self._directory / "targets" / f"{target.hashes['sha256']}.{INDEX}").read_bytes()
            target.verify_length_and_hashes(index)
        except (OSError, KeyError, DeserializationError, exceptions.RepositoryError) as error:
            raise PublishRefused(
                f"{self._directory} is not a whole marketplace: {type(error).__name__}: {error}. "
                "Take a copy that `nexus marketplace verify` accepts, or build into an empty directory."
            ) from error
        return _State(root, timestamp, snapshot, targets, index)

    def _newest_root(self) -> Metadata[Root]:
        versions = _versions(self._metadata, "root")
        if not versions:
            raise PublishRefused(
                f"{self._metadata} has no root metadata. Take a copy of the marketplace that is whole."
            )
        return Metadata[Root].from_file(str(self._metadata / f"{versions[-1]}.root.json"))

    def _checked(self, state: _State, keys: Keys) -> Metadata[Root]:
        for role, key, option in (
            ("targets", keys.targets, "--targets-key"),
            ("timestamp", keys.online, "--online-key"),
            ("snapshot", keys.online, "--online-key"),
        ):
            if not signers.held_by(state.root.signed, role, [key]):
                raise PublishRefused(
                    f"The marketplace {self._directory} has another key for {role}: {signers.public_keys(state.root.signed, role)}. "
                    f"Give it with {option}, or change keys with `nexus marketplace rotate-root`."
                )
        return state.root

    # ---- writing

    def _first_root(self, keys: Keys, now_utc: datetime) -> Metadata[Root]:
        root = signers.make_root(keys, self._next("root", None), _after(now_utc, self._lifetimes.root_days))
        signers.sign(root, keys.root)
        return root

    def _finish(
        self, targets: Metadata[Targets], state: _State | None, online: Sequence[Ed25519PrivateKey], now_utc: datetime
    ) -> None:
        """Write targets, snapshot and, at last, the timestamp."""
        targets_data = targets.to_bytes(_WRITTEN)
        if state is None or targets is not state.targets:
            self._write(self._metadata / f"{targets.signed.version}.targets.json", targets_data)
        else:
            targets_data = (self._metadata / f"{targets.signed.version}.targets.json").read_bytes()
        snapshot = Metadata(
            Snapshot(
                self._next("snapshot", state.snapshot if state else None),
                expires=_after(now_utc, self._lifetimes.snapshot_days),
                meta={"targets.json": MetaFile.from_data(targets.signed.version, targets_data, ["sha256"])},
            )
        )
        signers.sign(snapshot, online)
        snapshot_data = self._write_versioned(snapshot)
        timestamp = Metadata(
            Timestamp(
                state.timestamp.signed.version + 1 if state else 1,
                expires=_after(now_utc, self._lifetimes.timestamp_days),
                snapshot_meta=MetaFile.from_data(snapshot.signed.version, snapshot_data, ["sha256"]),
            )
        )
        signers.sign(timestamp, online)
        self._write(self._metadata / "timestamp.json", timestamp.to_bytes(_WRITTEN))

    def _write_versioned(self, metadata: Metadata[Any]) -> bytes:
        data = metadata.to_bytes(_WRITTEN)
        self._write(self._metadata / f"{metadata.signed.version}.{metadata.signed.type}.json", data)
        return data

    def _next(self, role: str, present: Metadata[Any] | None) -> int:
        """Return the next version, also past files that a broken-off run left: caches may hold those for ever."""
        known = present.signed.version if present is not None else 0
        return max([known, *(_versions(self._metadata, role) if role != "root" or present is not None else [])]) + 1

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other publishers on this machine out."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _versions(folder: Path, role: str) -> list[int]:
    names = (path.name.split(".")[0] for path in folder.glob(f"*.{role}.json"))
    return sorted(int(name) for name in names if name.isdigit())


def _after(now_utc: datetime, days: float) -> datetime:
    return (now_utc + timedelta(days=days)).replace(microsecond=0)


def _is_old(expires: datetime, days: float, now_utc: datetime) -> bool:
    return expires - now_utc < timedelta(days=days) / 2
