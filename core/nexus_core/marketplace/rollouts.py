"""What gateways say of a candidate, summed up: it stays, it takes over, or it is taken back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from nexus_core.marketplace.locks import NO_LOCK, Lock, RefusedRelease, digest_of
from nexus_core.snapshot.acks import CandidateReport, PluginReport
from nexus_core.snapshot.plugins import PluginInstance, Release

_OF_CONFIG = "PluginConfigInvalid"
"""Says nothing against a release: with another configuration it may do well."""


def settle(instance: PluginInstance, lock: Lock | None, reports: Iterable[PluginReport], now_utc: datetime) -> Lock:
    """Return the lock after what the gateways say.

    instance: as published. reports: of every replica that serves that Snapshot, in any order. now_utc: noted with a refused release.

    A candidate that any replica refuses is refused. One that has passed in every replica takes over. Without a candidate the lock
    takes the release that all replicas run. Replicas that say nothing of the candidate, or speak of another version, hold it up.
    """
    lock = lock or NO_LOCK
    said = tuple(reports)
    tried = instance.candidate.instance if instance.candidate is not None else None
    if tried is None:
        return lock.moved(instance.release) if _all_run(said, instance.release) else lock
    candidate = tried.release
    if lock.with_config(digest_of(tried)).refusal_of(candidate) is not None:
        return lock  # somebody was there before: what is refused is not taken up again
    of_it = [r.candidate for r in said if r.candidate is not None and r.candidate.version == candidate.version]
    refusals = [r for r in of_it if r.state == "refused"]
    if refusals:
        # One of many replicas says why; the same one for every order in which they are heard.
        first = min(refusals, key=_words)
        at = now_utc.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        known = lock if lock.version else lock.moved(instance.release)
        config = digest_of(tried) if first.reason == _OF_CONFIG else ""
        return known.refusing(
            RefusedRelease(candidate.version, candidate.sha256, first.reason, first.message, at, config)
        )
    if said and len(of_it) == len(said) and all(r.state == "passed" for r in of_it):
        return lock.accepting(candidate)
    return lock if lock.version else lock.moved(instance.release) if _all_run(said, instance.release) else lock


def _all_run(reports: tuple[PluginReport, ...], release: Release) -> bool:
    return bool(reports) and all(r.state == "loaded" and r.version == release.version for r in reports)


def _words(report: CandidateReport) -> tuple[str, str]:
    return report.reason, report.message
