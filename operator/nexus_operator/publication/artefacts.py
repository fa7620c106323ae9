"""Which files a Snapshot's plugins are made of: what is kept in Consul for gateways that cannot reach the marketplace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from nexus_core.snapshot import PluginInstance, Release, Snapshot
from nexus_core.snapshot.plugins import WheelNeed

MAX_BYTES = 4 * 2**20
"""Larger ones are left to the marketplace: Consul holds all of its keys in memory, on each of its servers."""
PART_BYTES = 480 * 1024
"""Consul takes 512 KiB a value."""
BUNDLED = "bundled:"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A plugin's zip. base_url: of its marketplace. sources: the NexusPlugins that need it, as `PluginInstance.source`, sorted."""

    release: Release
    base_url: str
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As messages have it."""
        return f"{self.release.name} {self.release.version}"

    @property
    def is_remote(self) -> bool:
        """Whether a gateway can fetch it by itself."""
        return _is_http(self.release.url) or _is_http(self.base_url)


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A distribution, of which one file fits. base_url, sources: as of `Artefact`."""

    need: WheelNeed
    base_url: str
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As messages have it."""
        return f"the wheel {self.need.name} {self.need.version}"

    @property
    def is_remote(self) -> bool:
        """Whether a gateway can fetch it by itself: each file that has an address, and PyPI's."""
        return True


def artefacts_of(snapshot: Snapshot) -> tuple[Artefact, ...]:
    """Return the zips that a Snapshot's plugins, candidates and libraries are in, by digest; none that is installed with Nexus."""
    found: dict[str, Artefact] = {}
    for instance in _each(snapshot):
        releases = [(instance.release, instance.base_url)]
        releases += [(library.release, library.base_url) for library in instance.libraries]
        for release, base_url in releases:
            if release.url.startswith(BUNDLED):
                continue
            known = found.get(release.sha256)
            sources = {instance.source, *(known.sources if known is not None else ())}
            first = known if known is not None else Artefact(release, base_url)
            found[release.sha256] = Artefact(first.release, first.base_url, tuple(sorted(sources)))
    return tuple(each for _, each in sorted(found.items()))


def wheels_of(snapshot: Snapshot) -> tuple[WheelFile, ...]:
    """Return the distributions that a Snapshot's plugins and candidates import, by name and version."""
    found: dict[tuple[str, str], WheelFile] = {}
    for instance in _each(snapshot):
        for need in instance.wheels:
            at = need.name, need.version
            known = found.get(at)
            sources = {instance.source, *(known.sources if known is not None else ())}
            base_url = known.base_url if known is not None else instance.base_url
            found[at] = WheelFile(need, base_url, tuple(sorted(sources)))
    return tuple(each for _, each in sorted(found.items()))


def parts_of(data: bytes) -> tuple[bytes, ...]:
    """Return the parts of a file as they are kept, one or more."""
    return tuple(data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)) or (b"",)


def _each(snapshot: Snapshot) -> Iterator[PluginInstance]:
    for instance in snapshot.plugins:
        if instance.lacking is not None:
            continue  # it is of no release
        yield instance
        if instance.candidate is not None:
            yield instance.candidate.instance


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")
