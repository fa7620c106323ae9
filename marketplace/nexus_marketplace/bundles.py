"""Marketplaces in one file, for places without a network: their signed metadata, and the artefacts and wheels that are needed there.

A tar whose members are `bundle.json` and, for each marketplace, the files of its directory below its name. What is imported is verified
as if it came from the network: the bundle itself need not be trusted.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
from nexus_core.marketplace import Index
from nexus_core.marketplace.index import MAX_INDEX_BYTES
from nexus_core.snapshot import Library, PluginInstance, Release

from nexus_marketplace import durable, tufs
from nexus_marketplace.fetching import MAX_ARTEFACT_BYTES, fetch_release
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, SourcePort, check_path
from nexus_marketplace.trust import MAX_ROOT_BYTES, Followed, Pins, Versions
from nexus_marketplace.verifying import verify_signature
from nexus_marketplace.wheels import MAX_WHEEL_BYTES, fetch_wheel, wheel_tags

if TYPE_CHECKING:
    from nexus_core.translate.market_access import Way

FORMAT = 1
HEAD = "bundle.json"
MAX_HEAD_BYTES = 2**20
MAX_BYTES = 4 * 2**30
MAX_MEMBERS = 20_000
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MEMBER = re.compile(
    r"metadata/(timestamp|[0-9]{1,9}\.(root|snapshot|targets))\.json|targets/[0-9a-f]{64}\.index\.json|index\.json"
    r"|artefacts/[0-9a-f]{64}\.zip|wheels/[0-9a-f]{64}\.whl"
)


class Trusted(msgspec.Struct, frozen=True):
    """What a NexusMarketplace pins. root_keys, publishers (by name): raw Ed25519, base64."""

    root_keys: tuple[str, ...]
    threshold: int
    publishers: dict[str, str]


class Head(msgspec.Struct, frozen=True):
    """`bundle.json`: the marketplaces by name."""

    format: int
    marketplaces: dict[str, Trusted]


@dataclass(frozen=True, slots=True)
class Imported:
    """A marketplace that was imported. plugins: `name version` of those whose artefact is there."""

    name: str
    directory: Path
    versions: Versions
    plugins: tuple[str, ...]
    trusted: Trusted


async def collect(
    source: SourcePort,
    followed: Followed,
    instances: Sequence[PluginInstance],
    cache: Path,
    pypi: str,
    ways: Mapping[str, Way] = {},
) -> dict[str, bytes]:
    """Return the files of a marketplace that these instances need, by path below its directory.

    followed: updated already. ways: see `market_access.find_ways`. Wheels are taken for all platforms that their releases have some for.
    Raises `MarketplaceTrouble`, `PluginRejected`.
    """
    files = dict(followed.files())
    for version in range(
        1, max(int(path.split("/")[1].split(".")[0]) for path in files if path.endswith(".root.json"))
    ):
        path = f"metadata/{version}.root.json"
        if path not in files:
            try:
                files[path] = source.read(path, MAX_ROOT_BYTES)
            except FileMissing:
                continue  # who imports it begins at the first that is there
    for instance in instances:
        needed: list[tuple[Release, str]] = [(instance.release, instance.base_url)]
        libraries: tuple[Library, ...] = instance.libraries
        needed += [(library.release, library.base_url) for library in libraries]
        for release, base_url in needed:
            way = ways.get(base_url)
            files[f"artefacts/{release.sha256}.zip"] = await fetch_release(
                release, way.url if way is not None else base_url, cache, access=way.access if way is not None else None
            )
        for need in instance.wheels:
            for file in need.files:
                one = msgspec.structs.replace(need, files=(file,))
                way = ways.get(instance.base_url)
                address, access = (way.url, way.access) if way is not None else (instance.base_url, None)
                _, data = await fetch_wheel(
                    one, cache, base_url=address, pypi=pypi, tags=wheel_tags(file), access=access
                )
                files[f"wheels/{file.sha256}.whl"] = data
    return files


def pack(marketplaces: Mapping[str, tuple[Trusted, Mapping[str, bytes]]]) -> bytes:
    """Return the bundle: always the same bytes for the same files."""
    head = Head(FORMAT, {name: trusted for name, (trusted, _) in sorted(marketplaces.items())})
    members = {HEAD: msgspec.json.encode(head)}
    for name, (_, files) in marketplaces.items():
        members |= {f"{name}/{path}": data for path, data in files.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in [HEAD, *sorted(members.keys() - {HEAD})]:
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(members[path]), 0o644
            archive.addfile(info, io.BytesIO(members[path]))
    return buffer.getvalue()


def unpack(file: IO[bytes]) -> tuple[Head, dict[str, dict[str, bytes]]]:
    """Return a bundle's head and its files by marketplace. Nothing is written, and no name but those of a marketplace's files is taken.

    Raises `PublishRefused`.
    """
    head: Head | None = None
    found: dict[str, dict[str, bytes]] = {}
    total = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                total += member.size
                if number >= MAX_MEMBERS or total > MAX_BYTES:
                    raise PublishRefused("The bundle is larger than any that is read. Export fewer plugins at once.")
                if head is None:
                    if member.name != HEAD:
                        raise PublishRefused(
                            f"The file begins with {member.name[:200]!r} and not with {HEAD}: it is no bundle of plugins."
                        )
                    head = _read_head(_content(archive, member, MAX_HEAD_BYTES))
                    continue
                name, _, path = member.name.partition("/")
                if name not in head.marketplaces or not _MEMBER.fullmatch(path):
                    raise PublishRefused(
                        f"The bundle has a member {member.name[:200]!r}, which is no file of a marketplace in it. Do not use this bundle."
                    )
                files = found.setdefault(name, {})
                if path in files:
                    raise PublishRefused(f"The bundle has {member.name} twice. Do not use this bundle.")
                files[path] = _content(archive, member, _bound(path))
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        if isinstance(error, PublishRefused):
            raise
        raise PublishRefused(
            f"The bundle cannot be read: {error}. Export it again with `nexus plugin bundle export`."
        ) from error
    if head is None:
        raise PublishRefused("The bundle is empty. Export it again with `nexus plugin bundle export`.")
    return head, found


def restore(
    head: Head, files: Mapping[str, Mapping[str, bytes]], target: Path, state: Path, trusted: Mapping[str, Trusted]
) -> list[Imported]:
    """Verify every marketplace of a bundle, then write them below a directory: `<target>/<name>/`; what is there stays.

    trusted: pins to go by, by marketplace; those of the bundle for others. state: an empty directory.
    Raises `MarketplaceTrouble`, `PluginRejected`, `PublishRefused`, OSError; then nothing has been written.
    """
    verified: list[tuple[Imported, Mapping[str, bytes]]] = []
    for name, said in sorted(head.marketplaces.items()):
        pins = trusted.get(name, said)
        own = files.get(name, {})
        there = target / name
        # What is there was verified when it was imported, and may be newer.
        floor = Versions(timestamp=tufs.timestamp_of(there / "metadata" / "timestamp.json"))
        followed = Followed(_Files(name, own), Pins(pins.root_keys, pins.threshold), state / name, floor)
        index, versions = followed.update()
        plugins = _verify_files(name, own, index, pins)
        verified.append((Imported(name, there, versions, plugins, pins), own))
    for imported, own in verified:
        for path in sorted(own, key=lambda each: (each == "metadata/timestamp.json", each)):
            durable.write(imported.directory / path, own[path])
    return [imported for imported, _ in verified]


def _verify_files(name: str, files: Mapping[str, bytes], index: Index, pins: Trusted) -> tuple[str, ...]:
    for path, data in files.items():
        if path.startswith(("artefacts/", "wheels/")):
            digest = hashlib.sha256(data).hexdigest()
            if digest != path.split("/")[1].split(".")[0]:
                raise PluginRejected(
                    "PluginDigestMismatch", f"{name}/{path} has SHA-256 {digest}. Do not use this bundle."
                )
    found = []
    for release in index.releases:
        if f"artefacts/{release.sha256}.zip" in files:
            key = pins.publishers.get(release.publisher)
            if key is None:
                raise PluginRejected(
                    "PublisherNotTrusted",
                    f"{release.name} {release.version} is published by {release.publisher!r}, for whom no key is pinned in {name}.",
                )
            verify_signature(release, key)
            found.append(f"{release.name} {release.version}")
    return tuple(found)


class _Files:
    """The `SourcePort` over files in memory."""

    signed = True

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        self.base_url = f"bundle://{name}/"
        self.for_people = f"the marketplace {name} of the bundle"
        self._files = files

    def begin(self) -> None:
        """They do not change."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """See `SourcePort.read`."""
        data = self._files.get(check_path(path))
        if data is None:
            raise FileMissing(f"{self.for_people} has no {path}.")
        if len(data) > max_bytes:
            raise FileTooLarge(f"{path} of {self.for_people} has {len(data)} bytes.")
        return data


def _read_head(data: bytes) -> Head:
    try:
        head = msgspec.json.decode(data, type=Head)
    except msgspec.DecodeError as error:
        raise PublishRefused(f"{HEAD} of the bundle cannot be read: {error}. Export it again.") from error
    if head.format != FORMAT:
        raise PublishRefused(
            f"The bundle has format {head.format}, this release of Nexus reads {FORMAT}. Upgrade the older of the two."
        )
    for name in head.marketplaces:
        if not _NAME.fullmatch(name):
            raise PublishRefused(
                f"The bundle has a marketplace {name[:100]!r}, which is no name. Do not use this bundle."
            )
    return head


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if not member.isreg():
        raise PublishRefused(f"{member.name[:200]!r} of the bundle is no plain file. Do not use this bundle.")
    if member.size > most:
        raise PublishRefused(f"{member.name[:200]!r} of the bundle has {member.size} bytes; at most {most} are read.")
    opened = archive.extractfile(member)
    data = opened.read(most + 1) if opened is not None else b""
    if len(data) != member.size:
        raise PublishRefused(f"{member.name[:200]!r} of the bundle is cut off. Copy the bundle again.")
    return data


def _bound(path: str) -> int:
    if path.startswith("wheels/"):
        return MAX_WHEEL_BYTES
    return MAX_ARTEFACT_BYTES if path.startswith("artefacts/") else MAX_INDEX_BYTES
