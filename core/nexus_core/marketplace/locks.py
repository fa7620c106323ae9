"""What is remembered of a NexusPlugin between translations: the release that has proved itself, and those that have not.

The operator keeps it in `NexusPlugin.status.lock`, a gateway that reads files in a file beside its plugins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from nexus_core.snapshot.plugins import PluginInstance, Release

MAX_REFUSED = 16
"""Refused releases that a lock remembers, the newest ones: an index lists few that are newer than what runs."""
MAX_RUNTIMES = 16
"""Runtimes that a refused release remembers: fleets have one or two."""


class RefusedRelease(msgspec.Struct, frozen=True, omit_defaults=True):
    """A release that was tried and taken back, and is not tried again. reason: from the problems catalogue. message: what and how to
    fix. at_utc: RFC 3339. config: digest of the configuration that it was refused for; empty when it is refused with any. runtimes:
    `Ack.runtime` of the replicas for which it is not; none when it is refused wherever it may run.
    """

    version: str
    sha256: str
    reason: str = ""
    message: str = ""
    at_utc: str = ""
    config: str = ""
    runtimes: tuple[str, ...] = ()


class Lock(msgspec.Struct, frozen=True, omit_defaults=True):
    """version, sha256: of the release that runs, empty before the first does. refused: oldest first."""

    version: str = ""
    sha256: str = ""
    refused: tuple[RefusedRelease, ...] = ()

    def is_of(self, release: Release) -> bool:
        """Whether this is the locked release. A lock without a digest is of the version."""
        return bool(self.version) and self.version == release.version and self.sha256 in ("", release.sha256)

    def refusal_of(self, release: Release) -> RefusedRelease | None:
        """Return why a release is not tried again; None when it may be."""
        return next(
            (r for r in self.refused if r.version == release.version and r.sha256 in ("", release.sha256)),
            None,
        )

    def with_config(self, digest: str) -> Lock:
        """Return the lock as it counts for a configuration: a release that was refused for another one may be tried with it.

        digest: from `config_digest` or `digest_of`.
        """
        counted = tuple(r for r in self.refused if r.config in ("", digest))
        return self if len(counted) == len(self.refused) else Lock(self.version, self.sha256, counted)

    def accepting(self, release: Release) -> Lock:
        """Return the lock with this release in it, and not among the refused ones."""
        kept = tuple(r for r in self.refused if (r.version, r.sha256) != (release.version, release.sha256))
        return Lock(self.version, self.sha256, kept).moved(release)

    def moved(self, release: Release) -> Lock:
        """Return the lock with this release in it."""
        if (self.version, self.sha256) == (release.version, release.sha256):
            return self
        return Lock(release.version, release.sha256, self.refused)

    def refusing(self, refused: RefusedRelease) -> Lock:
        """Return the lock with one more refused release; the oldest are forgotten beyond MAX_REFUSED."""
        kept = tuple(r for r in self.refused if (r.version, r.sha256) != (refused.version, refused.sha256))
        return Lock(self.version, self.sha256, (*kept, refused)[-MAX_REFUSED:])

    def upgraded(self, runtimes: Collection[str]) -> Lock:
        """Return the lock without releases that were refused by none of these runtimes. Empty ones are of replicas that do not say."""
        if not runtimes or "" in runtimes:
            return self
        kept = tuple(r for r in self.refused if not r.runtimes or not set(r.runtimes).isdisjoint(runtimes))
        return self if len(kept) == len(self.refused) else Lock(self.version, self.sha256, kept)

    def forgiven(self) -> Lock:
        """Return the lock without refused releases: they may be tried again."""
        return Lock(self.version, self.sha256) if self.refused else self


def config_digest(config: Mapping[str, Any]) -> str:
    """Return what tells two configurations of a NexusPlugin apart. Values from Secrets do not count."""
    return _digest(encode_config(config))


def digest_of(instance: PluginInstance) -> str:
    """Return `config_digest` of the NexusPlugin that an instance was made of."""
    return _digest(instance.config)


def encode_config(config: Mapping[str, Any]) -> str:
    """Return a configuration as an instance holds it."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(config: str) -> str:
    return hashlib.sha256(config.encode("utf-8", "surrogatepass")).hexdigest()[:16]


NO_LOCK = Lock()
"""Of a plugin that was never installed."""
