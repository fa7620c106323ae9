"""What holds of the wire form whatever the Snapshot is, and of damage to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.snapshot import Ack, Match, PluginReport, Route, Rule, Snapshot, WeightedBackend, wire


def route(number: int, size: int = 1) -> Route:
    rules = (Rule(f"r/{number}/0", (Match("/" + "x" * size),), backends=(WeightedBackend("shop/a"),)),)
    return Route(f"HTTPRoute/shop/r{number:06d}", f"HTTPRoute shop/r{number:06d}", ("a/b/c",), (), rules)


def snapshot_of(numbers: list[int], size: int = 1) -> Snapshot:
    return Snapshot(routes=tuple(route(n, size) for n in sorted(set(numbers))))


def read(encoded: wire.Encoded, generation: int = 1) -> Snapshot:
    return wire.decode(wire.parse_manifest(wire.manifest_bytes(encoded, generation)), encoded.chunks)


@given(st.lists(st.integers(0, 5000), max_size=300), st.sampled_from((1, 300, 5000)))
@settings(max_examples=40, deadline=None)
def test_round_trip(numbers: list[int], size: int) -> None:
    snapshot = snapshot_of(numbers, size)
    encoded = wire.encode(snapshot)
    assert read(encoded) == snapshot
    assert wire.encode(read(encoded)) == encoded
    assert all(len(chunk) < 256 * 1024 for chunk in encoded.chunks.values())


@pytest.mark.parametrize("size", [255_000, 262_000, 262_143, 262_144, 900_000])
def test_an_item_larger_than_a_chunk_is_split(size: int) -> None:
    snapshot = snapshot_of([1, 2, 3], size)
    encoded = wire.encode(snapshot)
    assert read(encoded) == snapshot
    assert all(len(chunk) < 256 * 1024 for chunk in encoded.chunks.values())


@given(st.integers(0, 2999))
@settings(max_examples=25, deadline=None)
def test_an_edit_alters_one_chunk_and_an_added_item_no_more_than_two(edited: int) -> None:
    numbers = list(range(3000))
    before = set(BASE.chunks)
    assert len(before) > 10
    changed = Snapshot(routes=tuple(route(n, 40 if n == edited else 1) for n in numbers))
    assert len(set(wire.encode(changed).chunks) - before) == 1
    without = snapshot_of([n for n in numbers if n != edited])
    assert len(set(wire.encode(without).chunks) - before) <= 2


BASE = wire.encode(snapshot_of(list(range(3000))))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_found(data: st.DataObject) -> None:
    encoded = wire.encode(snapshot_of(list(range(200))))
    manifest = wire.parse_manifest(wire.manifest_bytes(encoded, 7))
    victim = data.draw(st.sampled_from(sorted(encoded.chunks)))
    chunk = encoded.chunks[victim]
    place = data.draw(st.integers(0, len(chunk) - 1))
    flipped = chunk[:place] + bytes([chunk[place] ^ data.draw(st.integers(1, 255))]) + chunk[place + 1 :]
    for chunks in (
        {**encoded.chunks, victim: flipped},
        {**encoded.chunks, victim: chunk[:place]},
        {k: v for k, v in encoded.chunks.items() if k != victim},
    ):
        with pytest.raises(wire.WireError, match="generation 7"):
            wire.decode(manifest, chunks)


def test_chunks_in_another_order_are_found() -> None:
    manifest = wire.parse_manifest(wire.manifest_bytes(BASE, 1))
    swapped = wire.Manifest(1, 1, manifest.digest, tuple(reversed(manifest.chunks)))
    with pytest.raises(wire.WireError, match="do not give the manifest's digest"):
        wire.decode(swapped, BASE.chunks)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_make_a_reader_raise_anything_but_a_wire_error(data: bytes) -> None:
    for reader in (wire.parse_manifest, wire.decode_ack):
        said = ""
        try:
            reader(data)
        except wire.WireError as error:
            said = str(error)
        assert not said or (said[0].isupper() and said[-1] == ".")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"version": 2, "new": true}', "wire version 2, this release reads version 1. Upgrade the gateways"),
        (b'{"version": 0, "generation": 1}', "old wire version 0, this release reads version 1. Upgrade the operator"),
        (b'{"generation": 1}', "has no version"),
        (b'{"version": true}', "has no version"),
        (b"[]", "has no version"),
        (b"\xff", "is not JSON"),
        (b'{"version": 1}', "missing required field"),
        (b'{"version": 1, "generation": 0, "digest": "", "chunks": []}', "impossible"),
        (b'{"version": 1, "generation": 1, "digest": "zz", "chunks": []}', "impossible"),
    ],
)
def test_manifests_that_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(wire.WireError, match=says):
        wire.parse_manifest(data)


def test_a_line_of_an_unknown_section_is_refused() -> None:
    import hashlib

    line = b'tunnels {"id":"a"}\n'
    digest = hashlib.sha256(line).hexdigest()
    with pytest.raises(wire.WireError, match="Line 1 of generation 3 cannot be read"):
        wire.decode(wire.Manifest(1, 3, digest, (digest,)), {digest: line})


def test_an_empty_snapshot_has_no_chunks() -> None:
    encoded = wire.encode(Snapshot())
    assert not encoded.chunks
    assert read(encoded) == Snapshot()


@given(
    st.text(max_size=20), st.integers(0, 10**9), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
)
@settings(max_examples=50, deadline=None)
def test_acks_round_trip(replica: str, generation: int, plugins: dict[str, str]) -> None:
    reports = {name: PluginReport("failed", "1.0", "PluginLoadFailed", said) for name, said in plugins.items()}
    ack = Ack(replica, generation, "ab", "2026-01-01T00:00:00Z", reports)
    assert wire.decode_ack(wire.encode_ack(ack)) == ack


def test_keys() -> None:
    assert wire.manifest_key() == "nexus/snapshot/manifest"
    assert wire.chunk_key("ab", "edge/nexus") == "edge/nexus/snapshot/chunks/ab"
    assert wire.ack_key("gateway-1").startswith(wire.ack_prefix())
