"""What holds of the wire form whatever the Snapshot is, and of damage to it."""

from __future__ import annotations

import hashlib
import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core import snapshot as values
from nexus_core.snapshot import Ack, Match, PluginReport, Route, Rule, Snapshot, Upstream, WeightedBackend, wire


def route(number: int, size: int = 1) -> Route:
    rules = (Rule(f"r/{number}/0", (Match("/" + "x" * size),), backends=(WeightedBackend("shop/a"),)),)
    return Route(f"HTTPRoute/shop/r{number:06d}", f"HTTPRoute shop/r{number:06d}", ("a/b/c",), (), rules)


def snapshot_of(numbers: list[int], size: int = 1) -> Snapshot:
    return Snapshot(routes=tuple(route(n, size) for n in sorted(set(numbers))))


def read(encoded: wire.Encoded, generation: int = 1) -> Snapshot:
    return wire.decode(wire.parse_manifest(wire.manifest_bytes(encoded, generation)), encoded.chunks)


@given(st.lists(st.integers(0, 5000), max_size=300), st.sampled_from((1, 300, 5000)))
@settings(max_examples=40)
def test_round_trip(numbers: list[int], size: int) -> None:
    snapshot = snapshot_of(numbers, size)
    encoded = wire.encode(snapshot)
    assert read(encoded) == snapshot
    assert wire.encode(read(encoded)) == encoded
    assert all(len(chunk) < 256 * 1024 for chunk in encoded.chunks.values())


texts = st.text(max_size=6)
seconds = st.floats(0, 86400, allow_nan=False)
ratios = st.floats(0, 1, allow_nan=False)
counts = st.integers(0, 10**6)


def struct(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a struct, each field of any value of its type: a new field is in the test the day it is written."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: of(hints[name]) for name in kind.__struct_fields__})


def of(hint: Any) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        patterns = [each.pattern for each in args[1:] if isinstance(each, msgspec.Meta) and each.pattern]
        assert len(patterns) == 1, f"say how values of {hint} are made"
        return st.from_regex(patterns[0], fullmatch=True)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(of, args))
    if origin is tuple:
        return st.lists(of(args[0]), max_size=2).map(tuple) if args[1:] == (...,) else st.tuples(*map(of, args))
    if hint is type(None):
        return st.none()
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs[hint]
    return {str: texts, float: seconds | ratios, int: counts, bool: st.booleans()}[hint]


structs: dict[type[Any], st.SearchStrategy[Any]] = {}
for _name in values.__all__:
    _value = getattr(values, _name)
    if isinstance(_value, type) and issubclass(_value, msgspec.Struct):
        structs[_value] = st.deferred(lambda kind=_value: struct(kind))  # type: ignore[misc]


@given(st.lists(structs[Route], max_size=3), st.lists(structs[Upstream], max_size=3))
@settings(max_examples=150)
def test_every_field_of_routes_and_upstreams_comes_back(routes: list[Route], upstreams: list[Upstream]) -> None:
    snapshot = Snapshot(routes=tuple(routes), upstreams=tuple(upstreams))
    encoded = wire.encode(snapshot)
    assert read(encoded) == snapshot


def test_what_the_release_before_wrote_is_read_with_defaults() -> None:
    """Lines as wire version 1 had them."""
    lines = (
        b'routes {"id":"HTTPRoute/shop/r","source":"HTTPRoute shop/r","listeners":["a/b/c"],"hostnames":[],'
        b'"rules":[{"id":"HTTPRoute/shop/r/0",'
        b'"matches":[{"path":"/x","headers":[{"name":"a","value":"b"}]}],"backends":[{"upstream":"shop/a"}]}]}\n'
        b'upstreams {"id":"shop/a","source":"NexusService shop/a","endpoints":{"type":"static","addresses":[["10.0.0.1",80]]},'
        b'"balancing":{"algorithm":"round-robin"},"breaker":{"failures":9}}\n'
    )
    digest = hashlib.sha256(lines).hexdigest()
    found = wire.decode(wire.Manifest(1, 7, digest, (digest,)), {digest: lines})
    assert found.routes[0].rules[0].matches[0].headers[0] == values.HeaderMatch("a", "b")
    assert found.upstreams[0].breaker == values.CircuitBreaker(failures=9)
    assert found.upstreams[0].health is None


@pytest.mark.parametrize("size", [255_000, 262_000, 262_143, 262_144, 900_000])
def test_an_item_larger_than_a_chunk_is_split(size: int) -> None:
    snapshot = snapshot_of([1, 2, 3], size)
    encoded = wire.encode(snapshot)
    assert read(encoded) == snapshot
    assert all(len(chunk) < 256 * 1024 for chunk in encoded.chunks.values())


@given(st.integers(0, 2999))
@settings(max_examples=25)
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
@settings(max_examples=60)
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
@settings(max_examples=100)
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
        (b'{"version": 5, "new": true}', "wire version 5, this release reads versions 1 to 4. Upgrade the gateways"),
        (b'{"version": 0, "generation": 1}', "old wire version 0, this release reads versions 1 to 4. Upgrade the op"),
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
@settings(max_examples=50)
def test_acks_round_trip(replica: str, generation: int, plugins: dict[str, str]) -> None:
    reports = {name: PluginReport("failed", "1.0", "PluginLoadFailed", said) for name, said in plugins.items()}
    ack = Ack(replica, generation, "ab", "2026-01-01T00:00:00Z", reports)
    assert wire.decode_ack(wire.encode_ack(ack)) == ack


def test_keys() -> None:
    assert wire.manifest_key() == "nexus/snapshot/manifest"
    assert wire.chunk_key("ab", "edge/nexus") == "edge/nexus/snapshot/chunks/ab"
    assert wire.ack_key("gateway-1").startswith(wire.ack_prefix())


def read_next(reader: wire.Reader, snapshot: Snapshot, generation: int) -> Snapshot:
    encoded = wire.encode(snapshot)
    reading = reader.read(wire.parse_manifest(wire.manifest_bytes(encoded, generation)), encoded.chunks)
    while True:
        try:
            next(reading)
        except StopIteration as done:
            found: Snapshot = done.value
            return found


@given(
    st.lists(st.lists(st.integers(0, 400), max_size=300), min_size=1, max_size=4),
    st.sampled_from((1, 5000, 300_000)),
)
@settings(max_examples=30)
def test_a_reader_reads_what_follows_and_keeps_what_stays(histories: list[list[int]], size: int) -> None:
    """Items come and go; some are larger than a chunk. What was there before is the same object."""
    reader = wire.Reader()
    before: dict[str, Route] = {}
    for generation, numbers in enumerate(histories, 1):
        wanted = snapshot_of(numbers if size < 300_000 else numbers[:4], size)
        found = read_next(reader, wanted, generation)
        assert found == wanted
        for each in found.routes:
            assert each.id not in before or before[each.id] is each
        before = {each.id: each for each in found.routes}


def test_a_reader_goes_on_after_damage() -> None:
    reader = wire.Reader()
    one, two = snapshot_of(list(range(200))), snapshot_of([*range(150), *range(300, 400)])
    first = read_next(reader, one, 1)
    encoded = wire.encode(two)
    fresh = next(digest for digest in encoded.order if digest not in wire.encode(one).chunks)
    manifest = wire.parse_manifest(wire.manifest_bytes(encoded, 2))
    for damaged in ({**encoded.chunks, fresh: b"{}"}, {k: v for k, v in encoded.chunks.items() if k != fresh}):
        with pytest.raises(wire.WireError):
            list(reader.read(manifest, damaged))
    second = read_next(reader, two, 3)
    assert second == two
    assert second.routes[0] is first.routes[0]


def test_an_edited_route_keeps_its_unchanged_parts() -> None:
    reader = wire.Reader()
    one = snapshot_of(list(range(100)))
    edited = msgspec.structs.replace(one.routes[50], hostnames=("a.example",))
    first = read_next(reader, one, 1)
    two = Snapshot(routes=(*one.routes[:50], edited, *one.routes[51:]))
    second = read_next(reader, two, 2)
    assert second.routes[50] == edited
    assert second.routes[50].rules[0].matches is first.routes[50].rules[0].matches
