"""What is remembered of plugins where nobody else does: a file beside what gateways that read manifests keep of plugins.

It is what `NexusPlugin.status.lock` is on Kubernetes: which releases run, and which were tried and taken back. Processes that read the
same manifests share it: each looks whether it has changed, and changes it under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from nexus_core.marketplace.locks import Lock
from nexus_core.marketplace.rollouts import Said, settle
from nexus_core.snapshot import Ack, PluginInstance, Snapshot

log = logging.getLogger("nexus.gateway.locks")

LOCKS = "plugin-locks.json"
"""Name of the file, where it is beside the manifests that it is of."""
Locks = Mapping[str, Lock]
"""By `<namespace>/<name>` of the NexusPlugin."""
Stamp = tuple[int, int, int]
Asked = tuple[str, str, str]
"""A plugin, and version and SHA-256 of a release of it."""

_DECODER = msgspec.json.Decoder(dict[str, Lock])


def locks_of(manifests: Path) -> str:
    """Return the name of the file where it is in a cache that gateways with other manifests use, too: each forgets what its own manifests
    do not name. manifests: a file or directory; however it is written, it is the same one.
    """
    return f"plugin-locks-{hashlib.sha256(os.fsencode(manifests.resolve())).hexdigest()[:16]}.json"


class Passed(msgspec.Struct, frozen=True):
    """sha256: of the candidate's artefact. workers: places of those in which it has passed, sorted."""

    sha256: str
    workers: tuple[int, ...]


_PASSED = msgspec.json.Decoder(dict[str, Passed])


class LocksFile:
    """The locks on disk; without a path, or where it cannot be written, in memory. All methods may block: call them in threads."""

    def __init__(self, path: Path | None = None, *, worker: int = 0, workers: int = 1) -> None:
        """worker: this process's place among `workers` that share the file, 0..workers-1; a candidate has to pass in each."""
        self._path = path
        self._worker, self._workers = worker, workers
        self._held: dict[str, Lock] = {}
        self._asked: set[Asked] = set()
        self._trouble = ""

    def stamp(self) -> Stamp | None:
        """Return what differs after each change; None while there is no file."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> dict[str, Lock]:
        """Return the locks; a file that cannot be read counts as it last could be."""
        if self._path is None:
            return self._held
        try:
            self._held = _DECODER.decode(self._path.read_bytes())
        except FileNotFoundError:
            pass  # not written yet, or it could not be
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._tell(f"{self._path} cannot be read: {error}. Delete it: the plugins that run are locked anew.")
        return self._held

    def update(self, change: Callable[[Locks], Mapping[str, Lock]]) -> dict[str, Lock]:
        """Return the locks after a change to them as they are now."""
        if self._path is None:
            self._held = dict(change(self._held))
            return self._held
        try:
            with self._alone():
                before = self.read()
                after = dict(change(before))
                if after != before:
                    _write(self._path, msgspec.json.encode(after, order="sorted"))
        except OSError as error:
            self._tell(f"{self._path} cannot be written: {error}. After a restart, plugins may be of other versions.")
            after = dict(change(self._held))
        self._held = after
        return after

    def settle(self, snapshot: Snapshot, ack: Ack, now_utc: datetime) -> dict[str, Lock]:
        """Return the locks after what this process says of its plugins, as far as the other workers have said the same."""
        if not snapshot.plugins and not any(lock.refused for lock in self.read().values()):
            return self.read()
        forgiven: set[Asked] = set()

        def change(locks: Locks) -> Locks:
            known, again = upgraded(locks, ack.runtime, self._asked)
            forgiven.update(again)
            return self._settled(locks, known, snapshot, ack, now_utc)

        found = self.update(change)
        self._asked |= forgiven
        return found

    def _settled(self, locks: Locks, known: Locks, snapshot: Snapshot, ack: Ack, now_utc: datetime) -> Locks:
        """known: the locks without what this process tries again."""
        if self._path is None or self._workers == 1:
            return settled(known, snapshot, ack, now_utc)
        path = self._path.with_name(f"{self._path.name}.passed")
        try:
            former = _PASSED.decode(path.read_bytes())
        except FileNotFoundError:
            former = {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            former = {}  # every worker says again what it finds
        passed = noted(former, locks, snapshot, ack, self._worker)
        every = set(range(self._workers))
        waiting = frozenset(plugin for plugin, each in passed.items() if not every <= set(each.workers))
        found = settled(known, snapshot, ack, now_utc, waiting)
        # What is decided is forgotten: a release that is tried anew has to pass anew.
        left = {plugin: each for plugin, each in passed.items() if found.get(plugin) == locks.get(plugin)}
        if left != former:
            _write(path, msgspec.json.encode(left, order="sorted"))
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Beside it: the file itself is exchanged.
        with self._path.with_name(f"{self._path.name}.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("%s", trouble)


def noted(passed: Mapping[str, Passed], locks: Locks, snapshot: Snapshot, ack: Ack, worker: int) -> dict[str, Passed]:
    """Return in which workers candidates have passed, with what one of them says. ack: of this Snapshot, by that worker."""
    found = {}
    for instance in snapshot.plugins:
        if instance.candidate is None:
            continue
        release, lock = instance.candidate.instance.release, locks.get(instance.id)
        if lock is not None and (lock.is_of(release) or lock.refusal_of(release) is not None):
            continue  # it is decided, and this Snapshot will be over soon
        before = passed.get(instance.id)
        workers = set(before.workers) if before is not None and before.sha256 == release.sha256 else set()
        if _passes(instance, ack):
            workers.add(worker)
        if workers:
            found[instance.id] = Passed(release.sha256, tuple(sorted(workers)))
    return found


def settled(
    locks: Locks, snapshot: Snapshot, ack: Ack, now_utc: datetime, waiting: frozenset[str] = frozenset()
) -> dict[str, Lock]:
    """Return the locks after what a gateway says of its plugins. ack: of this Snapshot. waiting: plugins whose candidates have not
    passed in all of its workers.
    """
    found = dict(locks)
    for instance in snapshot.plugins:
        report = ack.plugins.get(instance.id)
        if report is not None and not (instance.id in waiting and _passes(instance, ack)):
            lock = settle(instance, found.get(instance.id), [Said(report, ack.runtime)], now_utc)
            if lock.version or lock.refused:
                found[instance.id] = lock
    return found


def upgraded(locks: Locks, runtime: str, asked: Collection[Asked]) -> tuple[Locks, set[Asked]]:
    """Return the locks without releases that were not for other runtimes, and which these are.

    asked: those that this process has tried again. Once is enough for it, and gateways on different runtimes that share the file would
    otherwise forgive each other's refusals in turn, for ever.
    """
    found, again = dict(locks), set[Asked]()
    for plugin, lock in locks.items():
        kept, left = lock.upgraded({runtime}).refused, []
        for each in lock.refused:
            release = plugin, each.version, each.sha256
            if each in kept or release in asked:
                left.append(each)
            else:
                again.add(release)
        if len(left) < len(lock.refused):
            found[plugin] = Lock(lock.version, lock.sha256, tuple(left))
    return found, again


def _passes(instance: PluginInstance, ack: Ack) -> bool:
    report = ack.plugins.get(instance.id)
    said = report.candidate if report is not None else None
    tried = instance.candidate
    if said is None or tried is None:
        return False
    return said.state == "passed" and said.version == tried.instance.release.version


def _write(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
