"""The Snapshot's and the acks' form on the wire, and the keys they lie under. Nothing else serialises them.

A Snapshot is a stream of JSON lines, one for each item of its sections, in the order of these, sorted by id.
The stream is cut into chunks that are stored under their own SHA-256; the manifest lists them. Where it is cut depends
on the ids alone (and on size for very large items), so an edit alters the chunks of what was edited and no others:
replicas fetch only those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from nexus_core.snapshot.acks import Ack
from nexus_core.snapshot.listeners import Certificate, GatewayPart, Listener
from nexus_core.snapshot.plugins import PluginInstance
from nexus_core.snapshot.routes import Route
from nexus_core.snapshot.sharing import Sharing
from nexus_core.snapshot.snapshots import EMPTY, Snapshot
from nexus_core.snapshot.streams import StreamRoute
from nexus_core.snapshot.upstreams import Upstream

VERSION = 4
"""Grows when an older reader would misread what a newer writer writes.

2: matches may have query parameters and regular expressions. A reader of 1 would pass over the first and take the second
for plain texts, so that a route got requests it was not written for, or lost its own.
3: listeners may speak TLS, TCP and UDP, upstreams HTTP/2; there are certificates, Gateways' own settings and routes below HTTP. A reader
of 2 would serve what is meant for TLS in clear.
4: plugins have libraries, wheels, grants and candidates. A reader of 3 would start them without, or with rights they were not given.
"""

OLDEST = 1
"""The oldest version this release reads: what later ones added has defaults. So gateways are upgraded first, then the operator."""

MAX_CHUNK_BYTES = 256 * 1024 - 1
"""Consul takes 512 KiB a value; half of it leaves room for stores that encode values again."""

MAX_CHUNKS = 4096
"""A gigabyte of Snapshot. A manifest that lists more is not one of ours."""

_CUT_ONE_IN = 64
"""One item in so many ends a chunk: at some 600 bytes an item, chunks are about 40 KiB."""

_SECTIONS: tuple[tuple[str, type[Any]], ...] = (
    ("gateways", GatewayPart),
    ("certificates", Certificate),
    ("listeners", Listener),
    ("routes", Route),
    ("streams", StreamRoute),
    ("upstreams", Upstream),
    ("plugins", PluginInstance),
)
_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in _SECTIONS}


class WireError(Exception):
    """What was read is not what was written. The text says what, where and how to fix it."""


class Manifest(msgspec.Struct, frozen=True):
    """What is published last, in one swap. digest: hex SHA-256 of the whole stream. chunks: hex SHA-256s, in order."""

    version: int
    generation: int
    digest: str
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """digest: hex SHA-256 of the whole stream. order: chunk digests as the stream needs them. chunks: by digest."""

    digest: str
    chunks: Mapping[str, bytes]
    order: tuple[str, ...]


def encode(snapshot: Snapshot) -> Encoded:
    """Return the chunks of a Snapshot, each below 256 KiB. Equal snapshots give equal bytes."""
    whole = hashlib.sha256()
    chunks: dict[str, bytes] = {}
    order: list[str] = []
    for chunk in _cut(_items(snapshot)):
        whole.update(chunk)
        digest = hashlib.sha256(chunk).hexdigest()
        chunks[digest] = chunk
        order.append(digest)
    return Encoded(whole.hexdigest(), chunks, tuple(order))


def manifest_bytes(encoded: Encoded, generation: int) -> bytes:
    """Return the manifest to store once all chunks are stored. generation: one more than the published one's."""
    return _ENCODER.encode(Manifest(VERSION, generation, encoded.digest, encoded.order))


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest. Raises WireError when it is none, or of another version."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(
            f"The Snapshot's manifest is not JSON: {error}. Something else wrote its key; delete the key, the operator writes it again."
        ) from error
    _check_version(found)
    try:
        manifest = msgspec.convert(found, Manifest)
    except msgspec.ValidationError as error:
        raise WireError(
            f"The Snapshot's manifest cannot be read: {error}. Delete the key, the operator writes it again."
        ) from error
    if manifest.generation < 1 or len(manifest.chunks) > MAX_CHUNKS or not _are_digests(manifest):
        raise WireError(
            f"The Snapshot's manifest is damaged (generation {manifest.generation}, {len(manifest.chunks)} chunks): its numbers "
            "or digests are impossible. Delete the key, the operator writes it again."
        )
    return manifest


def decode(manifest: Manifest, chunks: Mapping[str, bytes], former: Snapshot = EMPTY) -> Snapshot:
    """Return the Snapshot. chunks: by digest; others than the manifest's may be there. Raises WireError.

    former: the one that this one follows; what did not change is taken from it, so that both together need little more memory
    than one. Equal parts of items are one object in any case.
    """
    sharing = Sharing()
    for section, _ in _SECTIONS:
        for item in getattr(former, section):
            sharing.learn(section, item)
    return _finish(_read(manifest, chunks, {}, sharing))


class Reader:
    """Reads Snapshots that follow each other: of each only the chunks that the one before did not have."""

    def __init__(self) -> None:
        self._said: Said = {}

    def read(self, manifest: Manifest, chunks: Mapping[str, bytes]) -> Generator[None, None, Snapshot]:
        """Return the Snapshot, of a generator that yields at every few tens of microseconds, for a process that has something
        else to do meanwhile. Raises WireError.

        chunks: by digest; others than the manifest's may be there. What did not change is the same object as in the Snapshot before.
        """
        wanted = set(manifest.chunks)
        sharing = Sharing()
        for key, items in self._said.items():
            # Where a stream is cut depends on ids: what was edited was in a chunk that is no more.
            if not wanted.issuperset(key):
                for section, item in items:
                    sharing.learn(section, item)
                    yield
        said = self._said.copy()
        snapshot = yield from _read(manifest, chunks, said, sharing)
        self._said = said
        return snapshot


Said = dict[tuple[str, ...], tuple[tuple[str, Any], ...]]
"""Section and value of each item of a run of chunks that begins and ends with a line, by the chunks' digests. Most runs are one."""


def _finish(reading: Generator[None, None, Snapshot]) -> Snapshot:
    try:
        while True:
            next(reading)
    except StopIteration as done:
        found: Snapshot = done.value
        return found


def _read(
    manifest: Manifest, chunks: Mapping[str, bytes], said: Said, sharing: Sharing
) -> Generator[None, None, Snapshot]:
    """Return the Snapshot. said: what runs say that need not be read again; afterwards what those of this Snapshot say."""
    if not OLDEST <= manifest.version <= VERSION:
        _check_version({"version": manifest.version})
    whole = hashlib.sha256()
    known = {digest for key in said for digest in key}
    for number, digest in enumerate(manifest.chunks):
        chunk = chunks.get(digest)
        where = f"chunk {number + 1} of {len(manifest.chunks)} ({digest[:12]}…) of generation {manifest.generation}"
        if chunk is None:
            raise WireError(f"{where} is missing. Read the manifest again: a newer one may have replaced it.")
        if digest not in known and hashlib.sha256(chunk).hexdigest() != digest:
            raise WireError(
                f"{where} is damaged: its SHA-256 is another. Delete its key, the operator writes it again."
            )
        whole.update(chunk)
        yield
    if whole.hexdigest() != manifest.digest:
        raise WireError(
            f"The chunks of generation {manifest.generation} do not give the manifest's digest {manifest.digest[:12]}…. "
            "Delete the manifest key, the operator writes it again."
        )
    sections: dict[str, list[Any]] = {name: [] for name, _ in _SECTIONS}
    read: Said = {}
    number = 0
    for key, data in _runs(manifest, chunks):
        items = said.get(key)
        if items is None:
            made = []
            for index, line in enumerate(data.splitlines(), number + 1):
                name, _, body = line.partition(b" ")
                try:
                    section = name.decode("ascii")
                    made.append((section, sharing.share(section, _DECODERS[section].decode(body))))
                except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise WireError(
                        f"Line {index} of generation {manifest.generation} cannot be read: {error}. "
                        "Operator and gateway should be of the same release; upgrade the older one."
                    ) from error
                yield
            items = tuple(made)
        read[key] = items
        number += len(items)
        for section, item in items:
            sections[section].append(item)
        yield
    said.clear()
    said.update(read)
    return Snapshot(**{name: tuple(found) for name, found in sections.items()})


def _runs(manifest: Manifest, chunks: Mapping[str, bytes]) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield the stream in runs of chunks of whole lines: digests, and bytes. An item may be larger than a chunk."""
    key: list[str] = []
    for digest in manifest.chunks:
        key.append(digest)
        if chunks[digest].endswith(b"\n"):
            yield tuple(key), b"".join([chunks[each] for each in key]) if len(key) > 1 else chunks[digest]
            key = []
    if key:
        yield tuple(key), b"".join([chunks[each] for each in key])


def encode_ack(ack: Ack) -> bytes:
    """Return an ack's bytes; equal acks give equal bytes."""
    return _ENCODER.encode(ack)


def decode_ack(data: bytes) -> Ack:
    """Return the ack. Raises WireError when it is none."""
    try:
        return msgspec.json.decode(data, type=Ack)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(
            f"An ack cannot be read: {error}. The gateway replica that wrote it is of another release; upgrade the older one."
        ) from error


def manifest_key(prefix: str = "nexus") -> str:
    """Return the key of the manifest."""
    return f"{prefix}/snapshot/manifest"


def chunk_key(digest: str, prefix: str = "nexus") -> str:
    """Return the key of a chunk. digest: hex SHA-256."""
    return f"{prefix}/snapshot/chunks/{digest}"


def ack_key(replica: str, prefix: str = "nexus") -> str:
    """Return the key of a replica's ack."""
    return f"{prefix}/acks/{replica}"


def ack_prefix(prefix: str = "nexus") -> str:
    """Return what the keys of all acks begin with."""
    return f"{prefix}/acks/"


def artefact_prefix(prefix: str = "nexus") -> str:
    """Return what the keys of all artefacts begin with."""
    return f"{prefix}/artefacts/"


def artefact_key(sha256: str, number: int, prefix: str = "nexus") -> str:
    """Return the key of a part of an artefact that the operator keeps for gateways. number: from 0; parts of at most 480 KiB."""
    return f"{artefact_prefix(prefix)}{sha256}/{number}"


def _items(snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
    for name, _ in _SECTIONS:
        for item in getattr(snapshot, name):
            yield f"{name}/{item.id}", name.encode() + b" " + _ENCODER.encode(item) + b"\n"


def _cut(items: Iterator[tuple[str, bytes]]) -> Iterator[bytes]:
    pending: list[bytes] = []
    size = 0
    for key, line in items:
        if size + len(line) > MAX_CHUNK_BYTES and pending:
            yield b"".join(pending)
            pending, size = [], 0
        while len(line) > MAX_CHUNK_BYTES:
            yield line[:MAX_CHUNK_BYTES]
            line = line[MAX_CHUNK_BYTES:]
        pending.append(line)
        size += len(line)
        if int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % _CUT_ONE_IN == 0:
            yield b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


def _check_version(found: Any) -> None:
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise WireError("The Snapshot's manifest has no version. Delete the key, the operator writes it again.")
    if version > VERSION:
        raise WireError(
            f"The Snapshot is of wire version {version}, this release reads versions {OLDEST} to {VERSION}. "
            "Upgrade the gateways before the operator."
        )
    if version < OLDEST:
        raise WireError(
            f"The Snapshot is of the old wire version {version}, this release reads versions {OLDEST} to {VERSION}. "
            "Upgrade the operator, it publishes anew."
        )


def _are_digests(manifest: Manifest) -> bool:
    return all(
        len(digest) == 64 and not digest.strip("0123456789abcdef") for digest in (manifest.digest, *manifest.chunks)
    )
