"""The locks of NexusPlugins: which release has proved itself, and which have not. They live in `NexusPlugin.status.lock`.

Nothing here is ever less than what an object's status said: a release that was refused stays so, whoever led in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from nexus_core.marketplace.locks import MAX_REFUSED, NO_LOCK, Lock, RefusedRelease, digest_of
from nexus_core.marketplace.rollouts import Said, settle
from nexus_core.snapshot import Ack, PluginReport, Published

from nexus_operator.world.inventory import Object


class Locks:
    """The locks of all NexusPlugins, by `<namespace>/<name>`; of one leader."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Lock]] = {}  # with the uid of the object: one that is made anew begins anew
        self._off: frozenset[str] = frozenset()

    @property
    def current(self) -> Mapping[str, Lock]:
        """The locks of those that have one."""
        return MappingProxyType({name: lock for name, (_, lock) in self._known.items() if lock != NO_LOCK})

    def take(self, plugins: Iterable[Object]) -> None:
        """Take in the NexusPlugins that there are. What a status says beyond what is known is learned; what is gone is forgotten."""
        kept: dict[str, tuple[str, Lock]] = {}
        off: set[str] = set()
        for obj in plugins:
            meta = obj["metadata"]
            name, uid = f"{meta.get('namespace') or ''}/{meta['name']}", str(meta.get("uid") or "")
            shown = parse_lock((obj.get("status") or {}).get("lock"))
            known = self._known.get(name)
            kept[name] = (uid, _joined(known[1], shown) if known is not None and known[0] == uid else shown)
            if (obj.get("spec") or {}).get("enabled") is False:
                off.add(name)
        self._known, self._off = kept, frozenset(off)

    def put(self, plugin: str, lock: Lock) -> None:
        """Take in a lock that was written. plugin: one of those taken in before; any other is not known any more."""
        if plugin in self._known:
            self._known[plugin] = (self._known[plugin][0], lock)

    def settled(
        self, published: Published | None, acks: Iterable[Ack], now_utc: datetime
    ) -> Iterator[tuple[str, Lock, Lock]]:
        """Yield (plugin, lock, next lock) of those whose lock changes by what the gateways say of what is published.

        Of one that is switched off the refused releases are forgiven: whoever switches it on again wants them to be tried again. So are
        those that were refused for what gateways run on, when none does any more.
        """
        heard = tuple(acks)
        runtimes = {ack.runtime for ack in heard}
        for name in sorted(self._off):
            lock = self._known[name][1]
            if lock.refused:
                yield name, lock, lock.forgiven()
        instances = {each.id: each for each in published.snapshot.plugins} if published is not None else {}
        for name, (_, known) in sorted(self._known.items()):
            if name in self._off:
                continue
            lock = known.upgraded(runtimes)
            instance = instances.get(name)
            if instance is None or published is None:
                if lock != known:
                    yield name, known, lock
                continue
            tried = instance.candidate
            if (
                tried is not None
                and lock.with_config(digest_of(tried.instance)).refusal_of(tried.instance.release) is not None
            ):
                continue  # it was refused, and the Snapshot without it is not out yet
            # A replica that serves an older Snapshot may speak of another configuration: what it says of a candidate does not count, and
            # that it has the plugin does, so that nothing takes over without it.
            words = [
                Said(report if ack.digest == published.digest else _older(report), ack.runtime)
                for ack in heard
                if (report := ack.plugins.get(name)) is not None
            ]
            wanted = settle(instance, lock, words, now_utc)
            if wanted != known:
                yield name, known, wanted


def _older(report: PluginReport) -> PluginReport:
    return PluginReport("previous", report.version)


def _joined(known: Lock, shown: Lock) -> Lock:
    """What we know, with refused releases that only the status knows."""
    if not known.version and shown.version:
        known = Lock(shown.version, shown.sha256, known.refused)
    mine = {(r.version, r.sha256) for r in known.refused}
    more = tuple(r for r in shown.refused if (r.version, r.sha256) not in mine)
    return Lock(known.version, known.sha256, (*more, *known.refused)[-MAX_REFUSED:]) if more else known


def parse_lock(value: object) -> Lock:
    """Return the lock in a status; what cannot be read of it counts as not there."""
    if not isinstance(value, Mapping):
        return NO_LOCK
    refused = value.get("refused")
    found = [
        _refused(each)
        for each in (refused if isinstance(refused, list | tuple) else ())
        if isinstance(each, Mapping) and each.get("version")
    ]
    return Lock(_text(value.get("version")), _text(value.get("sha256")), tuple(found[-MAX_REFUSED:]))


def _refused(value: Mapping[str, Any]) -> RefusedRelease:
    version, sha256, reason, message = (_text(value.get(key)) for key in ("version", "sha256", "reason", "message"))
    at_utc, config, runtimes = _text(value.get("at")), _text(value.get("config")), _texts(value.get("runtimes"))
    return RefusedRelease(version, sha256, reason, message, at_utc, config, runtimes)


def show_lock(lock: Lock) -> dict[str, Any]:
    """Return the lock as it is written into a status."""
    refused = [
        {"version": r.version, "sha256": r.sha256, "reason": r.reason, "message": r.message[:4096], "at": r.at_utc}
        | ({"config": r.config} if r.config else {})
        | ({"runtimes": list(r.runtimes)} if r.runtimes else {})
        for r in lock.refused
    ]
    return {"version": lock.version, "sha256": lock.sha256, "refused": refused}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list | tuple) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
