"""What holds of translation whatever the manifests are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.marketplace import Index
from nexus_core.model.load import parse, parse_text
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Cors, Fallback, Fault, Mirror, RateLimit, Release, SizeLimit, Snapshot, wire
from nexus_core.translate import Translation, translate

sys.path.insert(0, str(Path(__file__).parent))
import manifests

INDEXES = {
    "official": Index(
        (
            Release(
                name="demo",
                version="1.0",
                api=">=1,<2",
                package="demo",
                entry_point="demo:Plugin",
                sha256="0" * 64,
                url="bundled:",
                publisher="nexus",
            ),
        )
    )
}


ROUTES = ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute")
ORDER = {Cors: 0, RateLimit: 0.25, Fault: 0.5, SizeLimit: 0.75, Fallback: 2}
"""Places of what policies put around the author's filters, which are at 1."""


def run(world: list[Any], previous: Snapshot | None = None) -> Translation:
    return translate([parse(manifest) for manifest in world], previous=previous, indexes=INDEXES)


def check_whole(snapshot: Snapshot) -> None:
    """Every name points into the same snapshot; everything is sorted."""
    upstreams = {upstream.id for upstream in snapshot.upstreams}
    plugins = {plugin.id for plugin in snapshot.plugins}
    listeners = {listener.id for listener in snapshot.listeners}
    for route in snapshot.routes:
        assert route.listeners
        assert set(route.listeners) <= listeners
        for rule in route.rules:
            assert rule.matches
            assert {b.upstream for b in rule.backends} - {""} <= upstreams
            assert set(rule.plugins) <= plugins
            assert {f.upstream for f in rule.filters if isinstance(f, Mirror)} <= upstreams
            assert {f.upstream for f in rule.filters if isinstance(f, Fallback)} - {""} <= upstreams
            limits = [f.name for f in rule.filters if isinstance(f, RateLimit)]
            assert len(limits) == len(set(limits))
            for kind in (Cors, SizeLimit, Fault, Fallback):
                assert sum(isinstance(f, kind) for f in rule.filters) <= 1
            places = [ORDER.get(type(f), 1) for f in rule.filters]
            assert places == sorted(places)
    for stream in snapshot.streams:
        assert stream.listeners
        assert set(stream.listeners) <= listeners
        assert {b.upstream for b in stream.backends} - {""} <= upstreams
    check_listeners(snapshot)
    for items in (
        snapshot.gateways,
        snapshot.certificates,
        snapshot.listeners,
        snapshot.routes,
        snapshot.streams,
        snapshot.upstreams,
        snapshot.plugins,
    ):
        ids = [item.id for item in items]
        assert ids == sorted(set(ids))


def check_listeners(snapshot: Snapshot) -> None:
    """Certificates are there, and no key in clear; of one Gateway, a connection or datagram belongs to one listener at most."""
    shown = {part.client_certificate for part in snapshot.gateways}
    places: dict[tuple[str, int, bool], set[str]] = {}
    names = set()
    for listener in snapshot.listeners:
        if listener.protocol in ("HTTPS", "TLS"):
            assert listener.tls is not None
            assert (listener.tls.mode == "passthrough") == (not listener.tls.certificates)
            shown |= set(listener.tls.certificates)
        else:
            assert listener.tls is None
        place = listener.gateway, listener.port, listener.protocol == "UDP"
        places.setdefault(place, set()).add("TLS" if listener.tls else listener.protocol)
        assert (place, listener.hostname) not in names
        names.add((place, listener.hostname))
    assert all(len(families) == 1 for families in places.values())
    assert shown == {certificate.id for certificate in snapshot.certificates}
    assert not any(b"PRIVATE KEY" in chunk for chunk in wire.encode(snapshot).chunks.values())


@given(manifests.worlds, st.randoms(use_true_random=False))
@settings(max_examples=120)
def test_the_order_of_manifests_does_not_show(world: list[Any], random: Any) -> None:
    shuffled = list(world)
    random.shuffle(shuffled)
    first, second = run(world), run(shuffled)
    assert first == second
    assert wire.encode(first.snapshot) == wire.encode(second.snapshot)
    check_whole(first.snapshot)


@given(st.lists(manifests.damaged() | manifests.json_values | manifests.sound, max_size=6), manifests.worlds)
@settings(max_examples=150)
def test_nothing_raises_and_the_snapshot_is_whole(world: list[Any], before: list[Any]) -> None:
    previous = run(before).snapshot
    check_whole(previous)
    check_whole(run(world, previous).snapshot)


@given(st.text(max_size=200))
@settings(max_examples=80)
def test_no_text_makes_the_loader_raise(text: str) -> None:
    parse_text(text, "x.yaml")
    parse_text("apiVersion: nexus.dev/v1alpha1\nkind: NexusService\n" + text, "x.yaml")


@given(manifests.worlds)
@settings(max_examples=60)
def test_publishing_twice_changes_nothing(world: list[Any]) -> None:
    first = run(world)
    assert run(world, first.snapshot).snapshot == first.snapshot
    encoded = wire.encode(first.snapshot)
    previous = wire.decode(wire.parse_manifest(wire.manifest_bytes(encoded, 1)), encoded.chunks)
    assert wire.encode(run(world, previous).snapshot) == encoded


@given(manifests.worlds, st.data())
@settings(max_examples=100)
def test_a_broken_gateway_or_secret_keeps_what_it_gave(world: list[Any], data: st.DataObject) -> None:
    before = run(world)
    ours = [m for m in world if m["kind"] in ("Gateway", "ListenerSet", "Secret")]
    if not ours:
        return
    victim = data.draw(st.sampled_from(ours))
    broken = {**victim, "data": {"tls.crt": "bm9uZQ=="}} if victim["kind"] == "Secret" else {**victim, "spec": 3}
    if isinstance(broken.get("spec"), int):
        broken["spec"] = {**victim["spec"], "listeners": 3}
    after = run([broken if m is victim else m for m in world], before.snapshot)
    assert set(before.snapshot.certificates) <= set(after.snapshot.certificates)
    kept = {listener.id: listener for listener in after.snapshot.listeners}
    if victim["kind"] == "Secret":  # which may have held authorities too
        assert {x.id for x in before.snapshot.listeners} <= kept.keys()
    else:
        assert all(kept.get(x.id) == x for x in before.snapshot.listeners)


@given(manifests.worlds, st.data())
@settings(max_examples=150)
def test_a_broken_object_keeps_its_items_and_leaves_its_neighbours_alone(world: list[Any], data: st.DataObject) -> None:
    before = run(world)
    ours = [m for m in world if m["kind"] in ("NexusService", "NexusPlugin", *ROUTES)]
    if not ours:
        return
    victim = data.draw(st.sampled_from(ours))
    field = "parentRefs" if victim["kind"] in ROUTES else "noSuchField"
    # A parentRef that cannot be read beside those that can; a field that is not there.
    damage = [*victim["spec"].get("parentRefs", ()), 3] if victim["kind"] in ROUTES else {"a": 1}
    broken = {**victim, "spec": {**victim["spec"], field: damage}}
    edited = [broken if m is victim else m for m in world]
    ref = ObjectRef(victim["kind"], victim["metadata"]["namespace"], victim["metadata"]["name"])
    after = run(edited, before.snapshot)
    assert any(p.where == ref and field in p.path for p in after.problems) or ref.kind in ROUTES
    assert after.snapshot.listeners == before.snapshot.listeners
    assert after.snapshot.upstreams == before.snapshot.upstreams
    assert after.snapshot.plugins == before.snapshot.plugins
    had_conflict = any(p.reason == "PathConflict" for p in before.problems)
    if not had_conflict:
        assert after.snapshot.routes == before.snapshot.routes
        assert after.snapshot.streams == before.snapshot.streams
    again = run(edited, after.snapshot)
    assert again.snapshot == after.snapshot


def test_five_thousand_routes_take_seconds_not_minutes() -> None:
    """A bound an order of magnitude above what it takes: it fails for quadratic work, not for a slow machine."""
    import time

    service = {"workload": {"image": "x"}, "expose": {"path": "/s"}}
    world: list[Any] = []
    for n in range(5000):
        backend = {"group": "nexus.dev", "kind": "NexusService", "name": f"s{n % 500}"}
        rules = [{"matches": [{"path": {"value": f"/r{n}"}}], "backendRefs": [backend]}]
        spec = {"parentRefs": [{"name": "default", "namespace": "nexus"}], "rules": rules}
        world.append(
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": f"r{n}"},
                "spec": spec,
            }
        )
    for n in range(500):
        spec = {**service, "expose": {"path": f"/s{n}"}}
        world.append(
            {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "metadata": {"name": f"s{n}"}, "spec": spec}
        )
    began = time.process_time()
    first = run(world)
    second = run(world, first.snapshot)
    wire.encode(second.snapshot)
    took = time.process_time() - began
    assert len(first.snapshot.routes) == 5500
    assert first.snapshot == second.snapshot
    assert took < 30, f"{took:.1f} s of CPU"


def test_snapshots_survive_msgspec_round_trips() -> None:
    found = run([manifests.marketplace])
    assert msgspec.json.decode(msgspec.json.encode(found.snapshot), type=Snapshot) == found.snapshot
