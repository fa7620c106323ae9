"""Which release of a plugin a version range means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from nexus_core.marketplace.index import Index
from nexus_core.snapshot.plugins import Release


@dataclass(frozen=True, slots=True)
class Choice:
    """The release to use."""

    release: Release


@dataclass(frozen=True, slots=True)
class Refusal:
    """No release fits. candidates: what there is instead: plugin names, or versions, highest first."""

    reason: Literal["PluginNotFound", "PluginVersionNotFound", "PluginIncompatible"]
    candidates: tuple[str, ...]


def choose(index: Index, name: str, spec_range: str, api_version: str) -> Choice | Refusal:
    """Return the highest release in the range that works with the API. spec_range: PEP 440, empty for any.

    A pre-release is chosen only when the range names one, or when nothing else is in it (PEP 440's rule).
    """
    releases = index.by_name.get(name, ())
    if not releases:
        return Refusal("PluginNotFound", tuple(index.by_name))
    in_range = _within(releases, spec_range)
    if not in_range:
        return Refusal("PluginVersionNotFound", tuple(r.version for r in releases))
    fitting = [r for r in in_range if _accepts(r.api, api_version)]
    if not fitting:
        return Refusal("PluginIncompatible", tuple(f"{r.version} (needs API {r.api})" for r in in_range))
    return Choice(fitting[0])


def _within(releases: tuple[Release, ...], spec_range: str) -> list[Release]:
    try:
        specifiers = SpecifierSet(spec_range)
    except InvalidSpecifier:
        return []
    by_version = {Version(r.version): r for r in releases}
    return [by_version[v] for v in specifiers.filter(by_version)]


def _accepts(spec_range: str, version: str) -> bool:
    try:
        return SpecifierSet(spec_range).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False
