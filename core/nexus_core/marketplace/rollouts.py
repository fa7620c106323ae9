"""What gateways say of a release that has not proved itself, summed up: it stays, it takes over, or it is taken back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import structs

from nexus_core.marketplace.locks import MAX_RUNTIMES, NO_LOCK, Lock, RefusedRelease, digest_of
from nexus_core.snapshot.acks import CandidateReport, PluginReport
from nexus_core.snapshot.plugins import PluginInstance, Release

_OF_CONFIG = "PluginConfigInvalid"
"""Says nothing against a release: with another configuration it may do well."""
MISFITS = frozenset({"HostRequirementMissing", "PluginIncompatible", "PythonIncompatible", "WheelInvalid"})
"""Say before any of a release's code has run that it is not for the gateways that there are. A first install then takes the next older
one, as resolution does; with other reasons, such as a wrong signature, nobody wants an older release instead of a word about this one.
They are tried again when all gateways that said so are gone, or have become others.
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What one replica says of a plugin. runtime: `Ack.runtime`."""

    report: PluginReport
    runtime: str = ""


def settle(instance: PluginInstance, lock: Lock | None, words: Iterable[Said], now_utc: datetime) -> Lock:
    """Return the lock after what the gateways say.

    instance: as published. words: of every replica that serves that Snapshot, in any order. now_utc: noted with a refused release.

    A candidate that any replica refuses is refused. One that has passed in every replica takes over. Without a candidate the lock
    takes the release that all replicas run; one that never ran and that is a misfit for any of them is refused. Replicas that say
    nothing of the candidate, or speak of another version, hold it up.
    """
    lock = lock or NO_LOCK
    if instance.lacking is not None:
        return lock  # whatever is said of it, it is of no release
    heard = tuple(words)
    said = tuple(each.report for each in heard)
    tried = instance.candidate.instance if instance.candidate is not None else None
    if tried is None:
        release = instance.release
        misfits = [
            each for each in heard if each.report.state in ("failed", "previous") and each.report.reason in MISFITS
        ]
        if misfits and not lock.is_of(release) and lock.refusal_of(release) is None:
            refused = _refused(release, [each.report for each in misfits], now_utc)
            return lock.refusing(structs.replace(refused, runtimes=_runtimes(misfits)))
        return lock.moved(release) if _all_run(said, release) else lock
    candidate = tried.release
    if lock.with_config(digest_of(tried)).refusal_of(candidate) is not None:
        return lock  # somebody was there before: what is refused is not taken up again
    of_it = [r.candidate for r in said if r.candidate is not None and r.candidate.version == candidate.version]
    refusals = [r for r in of_it if r.state == "refused"]
    if refusals:
        known = lock if lock.version else lock.moved(instance.release)
        refused = _refused(candidate, refusals, now_utc)
        if refused.reason == _OF_CONFIG:
            refused = structs.replace(refused, config=digest_of(tried))
        if all(r.reason in MISFITS for r in refusals):
            refused = structs.replace(refused, runtimes=_runtimes(s for s in heard if s.report.candidate in refusals))
        return known.refusing(refused)
    if said and len(of_it) == len(said) and all(r.state == "passed" for r in of_it):
        return lock.accepting(candidate)
    return lock if lock.version else lock.moved(instance.release) if _all_run(said, instance.release) else lock


def _runtimes(words: Iterable[Said]) -> tuple[str, ...]:
    """Return whose word it is; none if any of them does not say what it runs on, or they are too many to remember."""
    found = {each.runtime for each in words}
    return () if "" in found or len(found) > MAX_RUNTIMES else tuple(sorted(found))


def _all_run(reports: tuple[PluginReport, ...], release: Release) -> bool:
    return bool(reports) and all(r.state == "loaded" and r.version == release.version for r in reports)


def _refused(release: Release, reports: Iterable[CandidateReport | PluginReport], now_utc: datetime) -> RefusedRelease:
    """reports: one or more, all of which speak against it."""
    # One of many replicas says why; the same one for every order in which they are heard.
    first = min(reports, key=_words)
    at = now_utc.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return RefusedRelease(release.version, release.sha256, first.reason, first.message, at)


def _words(report: CandidateReport | PluginReport) -> tuple[str, str]:
    return report.reason, report.message
