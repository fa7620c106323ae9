"""Plugins in worlds that change: sessions give what cold runs give, and whatever is chosen may be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.certificates.sealing import Sealer
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal
from nexus_core.marketplace import Index, permissions
from nexus_core.marketplace.locks import Lock, RefusedRelease
from nexus_core.marketplace.rollouts import Said, settle
from nexus_core.marketplace.updates import contains
from nexus_core.model.load import parse
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.snapshot import PluginInstance, Release, Snapshot, wire
from nexus_core.snapshot.acks import CandidateReport, PluginReport
from nexus_core.snapshot.plugins import Permissions, PluginNeed, Wheel, WheelNeed
from nexus_core.translate import Translation, translate
from nexus_core.translate.plugin_instances import grants_of
from nexus_core.translate.session import Session

SEALER = Sealer(bytes(32))
NEXUS = "nexus.dev/v1alpha1"
BASE = Release(
    name="demo", version="1.0", api=">=1,<2", package="demo", entry_point="demo:P", sha256="", url="", publisher="nexus"
)


def release(name: str, version: str, **fields: Any) -> Release:
    return msgspec.structs.replace(BASE, name=name, version=version, sha256=name + version, **fields)


WHEEL = WheelNeed("w", "1", (Wheel("w-1.whl", "0"),))
RELEASES = (
    release("a", "1.0"),
    release("a", "1.1", plugins=(PluginNeed("lib", "<2"),), before=("b",)),
    release("a", "2.0", plugins=(PluginNeed("lib"),)),
    release("a", "2.1", channel="beta", permissions=Permissions(network=("x.example",))),
    release("b", "1.0", plugins=(PluginNeed("lib", ">=2"),), after=("a",)),
    release("b", "1.1", wheels=(WHEEL,)),
    release("b", "1.2", permissions=Permissions(secrets=("token",)), wheels=(WHEEL,)),
    release("b", "2.0b1", before=("a",), conflicts=(PluginNeed("a", "<2"),)),
    release("b", "3.0", api=">=2"),
    release("lib", "1.0", wheels=(WHEEL,)),
    release("lib", "2.0", publisher="stranger"),
    release("lib", "2.1"),
)
INDEXES = (
    Index(RELEASES),
    Index(tuple(r for r in RELEASES if r.version < "1.2")),
    Index(RELEASES[:1] + RELEASES[4:11]),
    Index(tuple(msgspec.structs.replace(r, sha256="!") for r in RELEASES)),
    None,
)
SPECS: tuple[dict[str, Any] | str, ...] = (
    {}, {"version": "<2"}, {"version": ">=2"}, {"enabled": False}, {"canary": {"seconds": 0}, "updatePolicy": {"mode": "any"}},
    {"updatePolicy": {"mode": "manual"}, "config": {"x": 1}}, {"updatePolicy": {"window": {"days": ["Mon"]}}, "order": 1},
    {"grants": {"network": ["*.example"], "secrets": [{"name": "token", "secretRef": {"name": "s", "key": "k"}}]}},
    {"configFrom": [{"path": "p", "secretRef": {"name": "s", "key": "k"}}], "grants": {"headers": {"read": ["x"]}}},
    {"marketplace": "gone"}, {"channel": "beta"}, {"targetRefs": [{"kind": "NexusService", "name": "orders"}]}, "broken",
)  # fmt: skip
SERVICES = ({"backend": {"addresses": ["10.0.0.1:80"]}, "expose": {"path": "/orders"}}, {"backend": {"addresses": []}})
LOCKS = (
    None,
    lambda name: Lock("1.0", f"{name}1.0"),
    lambda name: Lock("1.1", f"{name}1.1", (RefusedRelease("2.0", f"{name}2.0"),)),
    lambda name: Lock("9", "gone", (RefusedRelease("1.0", ""),)),
)
TIMES = (None, datetime(2026, 3, 2, 12, tzinfo=UTC), datetime(2026, 3, 3, 12, tzinfo=UTC))


class Renaming:
    """A hook that sets one field, and refuses what has it already."""

    namespace, name, failure_policy = "shop", "shop/hook", "open"

    def call(self, manifest: Manifest) -> Manifest | Refusal:
        if manifest.labels:
            return Refusal("Twice", "It was here before")
        return manifest.with_spec({**manifest.spec, "policy": {"retry": {"attempts": 2}}})


HOOKS = ((), (Renaming(),))


def manifest(kind: str, name: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": NEXUS, "kind": kind, "spec": spec,
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": f"2026-01-0{len(name)}T00:00:00Z", **metadata},
    }  # fmt: skip


MARKET = parse(
    {
        "apiVersion": NEXUS, "kind": "NexusMarketplace", "metadata": {"name": "official"},
        "spec": {"source": {"bundled": True}, "publishers": [{"name": "nexus", "publicKey": "A" * 43 + "="}]},
    }
)  # fmt: skip
PLUGINS = {(n, i): parse(manifest("NexusPlugin", n, spec)) for n in "ab" for i, spec in enumerate(SPECS)}
OTHERS = {i: parse(manifest("NexusService", "orders", spec)) for i, spec in enumerate(SERVICES)}
SECRETS = {
    i: parse({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "shop"}, "data": data})
    for i, data in enumerate(({"k": "dDE="}, {"k": "dDI="}, {"k": "//79"}, {}))
}
worlds = st.fixed_dictionaries(
    {
        "a": st.integers(0, len(SPECS)), "b": st.integers(0, len(SPECS)), "index": st.integers(0, len(INDEXES) - 1),
        "service": st.integers(0, len(SERVICES)), "secret": st.integers(0, len(SECRETS)), "now": st.integers(0, 2),
        "hook": st.integers(0, 1), "lock a": st.integers(0, 3), "lock b": st.integers(0, 3),
    }
)  # fmt: skip
changes = st.lists(st.dictionaries(st.sampled_from(["a", "b", "index", "service", "secret", "now", "hook"]),
                                   st.integers(0, 20), min_size=1, max_size=2), max_size=6)  # fmt: skip


def resources(world: dict[str, int]) -> list[Resource]:
    picked = [PLUGINS.get(("a", world["a"])), PLUGINS.get(("b", world["b"])), OTHERS.get(world["service"])]
    return [MARKET, *(r for r in (*picked, SECRETS.get(world["secret"])) if r is not None)]


def more(world: dict[str, int], locks: dict[str, Lock], previous: Snapshot | None) -> dict[str, Any]:
    index = INDEXES[world["index"] % len(INDEXES)]
    return {
        "previous": previous, "locks": locks, "sealer": SEALER, "now_utc": TIMES[world["now"] % 3],
        "indexes": {} if index is None else {"official": index}, "manifest_hooks": HOOKS[world["hook"] % 2],
    }  # fmt: skip


def check(found: Translation, world: dict[str, int], locks: dict[str, Lock]) -> None:
    """What may run does, and nothing else."""
    specs = {"shop/" + r.ref.name: r.spec for r in resources(world) if isinstance(r.spec, NexusPluginSpec)}
    for instance in found.snapshot.plugins:
        spec = specs.get(instance.id)
        candidate = instance.candidate.instance if instance.candidate is not None else None
        for each in [instance, *([candidate] if candidate is not None else [])]:
            check_instance(each, spec)
        if candidate is not None and spec is not None:
            assert candidate.candidate is None
            assert candidate.release != instance.release
            assert contains(spec.version, candidate.release.version)
            assert spec.canary.seconds > 0
            if instance.id in locks:
                assert locks[instance.id].refusal_of(candidate.release) is None
    assert wire.decode(*_coded(found.snapshot)) == found.snapshot


def check_instance(instance: PluginInstance, spec: NexusPluginSpec | None) -> None:
    assert contains(instance.release.api, "1.1")
    needed = {n.name for r in (instance.release, *(x.release for x in instance.libraries)) for n in r.plugins}
    assert needed == {library.release.name for library in instance.libraries}
    assert all(library.public_key for library in instance.libraries)
    if spec is not None:
        assert permissions.is_empty(permissions.find_missing(instance.granted, grants_of(spec)))
    for value in instance.sealed:
        assert value.holders
        SEALER.unseal_text(value.text, value.holders, f"{instance.id}#{value.name}")


def _coded(snapshot: Snapshot) -> Any:
    encoded = wire.encode(snapshot)
    return wire.parse_manifest(wire.manifest_bytes(encoded, 1)), encoded.chunks


@settings(max_examples=200, deadline=None)
@given(worlds, changes, st.booleans(), st.sampled_from(["passed", "refused", "running"]))
def test_a_session_gives_what_a_cold_run_gives(
    world: dict[str, int], steps: list[dict[str, int]], published: bool, state: Any
) -> None:
    session = Session()
    previous: Snapshot | None = None
    locks = {f"shop/{n}": lock(n) for n in "ab" if (lock := LOCKS[world[f"lock {n}"]]) is not None}
    for step in [{}, *steps]:
        for name, number in step.items():
            sizes = {"a": len(SPECS) + 1, "b": len(SPECS) + 1, "service": len(SERVICES) + 1, "secret": len(SECRETS) + 1}
            world[name] = number % sizes.get(name, 100)
        given_ = more(world, locks, previous)
        found = session.translate(resources(world), **given_)
        assert found == translate(reversed(resources(world)), **given_)
        check(found, world, locks)
        if published:
            previous = found.snapshot
            for instance in previous.plugins:
                tried = instance.candidate.instance.release.version if instance.candidate is not None else None
                report = CandidateReport(tried, state) if tried is not None else None
                said = [Said(PluginReport("loaded", instance.release.version, candidate=report))]
                locks[instance.id] = settle(instance, locks.get(instance.id), said, datetime(2026, 3, 2, tzinfo=UTC))


def test_a_rollout_from_end_to_end() -> None:
    """Installed, locked, a new one tried and refused, another one tried and taken over."""
    plugin, service = parse(manifest("NexusPlugin", "a", {"updatePolicy": {"mode": "any"}})), OTHERS[0]
    world = [MARKET, plugin, service]
    at = datetime(2026, 3, 2, tzinfo=UTC)

    def run(index: Index, locks: dict[str, Lock], previous: Snapshot | None) -> PluginInstance:
        (instance,) = translate(world, indexes={"official": index}, locks=locks, previous=previous).snapshot.plugins
        return instance

    def snapshot(instance: PluginInstance) -> Snapshot:
        return Snapshot(plugins=(instance,))

    first = run(Index((release("a", "1.0"),)), {}, None)
    assert (first.release.version, first.candidate) == ("1.0", None)
    lock = settle(first, None, [Said(PluginReport("loaded", "1.0"))], at)
    two = Index((release("a", "1.0"), release("a", "1.1")))
    second = run(two, {"shop/a": lock}, snapshot(first))
    assert second.candidate is not None
    assert (second.release.version, second.candidate.instance.release.version) == ("1.0", "1.1")
    refused = CandidateReport("1.1", "refused", "PluginRolledBack", "slow")
    lock = settle(second, lock, [Said(PluginReport("loaded", "1.0", candidate=refused))], at)
    third = run(two, {"shop/a": lock}, snapshot(second))
    assert (third.release.version, third.candidate) == ("1.0", None)
    # After a restart without any memory but the lock, the same.
    assert run(two, {"shop/a": lock}, None) == third
    three = Index((*two.releases, release("a", "1.2")))
    fourth = run(three, {"shop/a": lock}, snapshot(third))
    assert fourth.candidate is not None
    assert fourth.candidate.instance.release.version == "1.2"
    passed = CandidateReport("1.2", "passed")
    lock = settle(fourth, lock, [Said(PluginReport("loaded", "1.0", candidate=passed))], at)
    last = run(three, {"shop/a": lock}, snapshot(fourth))
    assert (last.release.version, last.candidate) == ("1.2", None)
    # With the index away, what is locked stays as it is.
    (kept,) = translate(world, locks={"shop/a": lock}, previous=snapshot(last)).snapshot.plugins
    assert kept == last
