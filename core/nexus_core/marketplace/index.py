"""The index: a JSON document that lists the releases of a marketplace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from nexus_core.snapshot.plugins import Release

INDEX_VERSION = 1
MAX_INDEX_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENTRY_POINT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")


class IndexInvalid(Exception):
    """An index that cannot be used. The text says what, where and how to fix it."""


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    releases: tuple[msgspec.Raw, ...]
    name: str = ""
    description: str = ""


@dataclass(frozen=True)
class Index:
    """The releases of one marketplace, in the document's order. origin: where it was read, for messages."""

    releases: tuple[Release, ...] = ()
    origin: str = field(default="", compare=False)

    @cached_property
    def by_name(self) -> Mapping[str, tuple[Release, ...]]:
        """Releases of each plugin, highest version first."""
        found: dict[str, list[Release]] = {}
        for release in self.releases:
            found.setdefault(release.name, []).append(release)
        return {n: tuple(sorted(r, key=lambda x: Version(x.version), reverse=True)) for n, r in sorted(found.items())}


def parse_index(data: bytes, origin: str) -> Index:
    """Return the index. origin: its address, for messages.

    Raises IndexInvalid for anything that is not one, whole and well-formed: nothing of a damaged index is used.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise IndexInvalid(
            f"The index {origin} has {len(data)} bytes; at most {MAX_INDEX_BYTES} are read. Split it in two."
        )
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IndexInvalid(
            f'The index {origin} cannot be read: {error}. Write {{"version": {INDEX_VERSION}, "releases": [...]}}.'
        ) from error
    if document.version != INDEX_VERSION:
        raise IndexInvalid(
            f"The index {origin} is of version {document.version}, this release of Nexus reads {INDEX_VERSION}. "
            "Upgrade the older of the two."
        )
    releases = tuple(_release(raw, number, origin) for number, raw in enumerate(document.releases))
    seen: set[tuple[str, Version]] = set()
    for release in releases:
        key = (release.name, Version(release.version))
        if key in seen:
            raise IndexInvalid(
                f"The index {origin} lists {release.name} {release.version} twice. Remove one of the two."
            )
        seen.add(key)
    return Index(releases, origin)


def _release(raw: msgspec.Raw, number: int, origin: str) -> Release:
    where = f"releases[{number}] of the index {origin}"
    try:
        release = msgspec.json.decode(raw, type=Release)
        unknown = sorted(set(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])) - set(Release.__struct_fields__))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IndexInvalid(f"{where} cannot be read: {error}. Build it with `nexus marketplace build`.") from error
    if unknown:
        # An unknown field would not be in the signed bytes: whoever adds it could change what the publisher meant.
        raise IndexInvalid(f"{where} has unknown fields: {', '.join(unknown)}. Remove them, or upgrade Nexus.")
    faults = []
    if not _NAME.fullmatch(release.name):
        faults.append(f'name "{release.name}" is not kebab-case')
    if not _PACKAGE.fullmatch(release.package):
        faults.append(f'package "{release.package}" is no import package')
    if (
        not _ENTRY_POINT.fullmatch(release.entry_point)
        or release.entry_point.split(":")[0].split(".")[0] != release.package
    ):
        faults.append(f'entry_point "{release.entry_point}" is not module:Class inside {release.package}')
    if len(release.sha256) != 64 or release.sha256.strip("0123456789abcdef"):
        faults.append("sha256 is not 64 hex digits")
    try:
        Version(release.version)
    except InvalidVersion:
        faults.append(f'version "{release.version}" is not PEP 440')
    try:
        SpecifierSet(release.api)
    except InvalidSpecifier:
        faults.append(f'api "{release.api}" is no version range')
    if faults:
        raise IndexInvalid(f"{where}: {'; '.join(faults)}. Build it with `nexus marketplace build`.")
    return release
