"""A session that remembers gives, after any changes, what a translation of the whole world from nothing gives, to the byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.certificates.sealing import Sealer
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource
from nexus_core.snapshot import Snapshot, wire
from nexus_core.translate import Translation, translate
from nexus_core.translate.session import Session

sys.path.insert(0, str(Path(__file__).parent))
from test_translate import INDEXES

GATEWAY = "gateway.networking.k8s.io/v1"
NEXUS = "nexus.dev/v1alpha1"
SEALER = Sealer(bytes(32))
Variants = tuple[dict[str, Any] | None, ...]


def made(api: str, kind: str, name: str, namespace: str, *specs: Any, **metadata: Any) -> Variants:
    """An object in each of its forms, and absent."""
    about = {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    return (*({"apiVersion": api, "kind": kind, "metadata": about, "spec": spec} for spec in specs), None)


def listener(**fields: Any) -> dict[str, Any]:
    return {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}, **fields}


def rule(*backends: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"backendRefs": list(backends), **fields}


A, B = {"name": "a", "port": 80}, {"name": "b", "namespace": "infra", "port": 80}
ORDERS = {"group": "nexus.dev", "kind": "NexusService", "name": "orders"}
PARENT = {"name": "main", "namespace": "infra"}
SET = {"kind": "ListenerSet", "name": "more", "namespace": "shop"}
MIRROR = {"type": "RequestMirror", "requestMirror": {"backendRef": A}}
TEAM = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}


def route_of(*rules: dict[str, Any], parents: Any = (PARENT,), hostnames: Any = ()) -> dict[str, Any]:
    return {"parentRefs": list(parents), "hostnames": list(hostnames), "rules": list(rules)}


def namespace(name: str, *labels: dict[str, str]) -> Variants:
    return (
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": each}} for each in labels),
        None,
    )


UNIVERSE: tuple[Variants, ...] = (
    namespace("shop", {}, {"team": "a"}),
    made(
        GATEWAY, "Gateway", "main", "infra",
        *({"gatewayClassName": "nexus", "listeners": listeners} for listeners in (
            [listener()],
            [listener(allowedRoutes=TEAM)],
            [listener(), listener(name="two", hostname="*.example")],
            [listener(hostname="a.example"), {"name": "tcp", "port": 9000, "protocol": "TCP", "allowedRoutes": TEAM}],
            [listener(protocol="ODD"), listener(name="tcp", port=9000, protocol="TCP")],
            [listener(), listener()],
        )),
        {"gatewayClassName": "another", "listeners": [listener()]},
        {"gatewayClassName": "nexus", "listeners": [listener()], "allowedListeners": {"namespaces": {"from": "All"}}},
        "broken",
    ),
    made(GATEWAY, "ListenerSet", "more", "shop",
         {"parentRef": PARENT, "listeners": [listener(name="extra", port=81)]},
         {"parentRef": PARENT, "listeners": [listener(name="extra")]}),
    made(
        GATEWAY, "HTTPRoute", "one", "shop",
        route_of(rule(A)), route_of(rule(A, B)), route_of(rule(A, filters=[MIRROR])), route_of(rule(ORDERS)),
        route_of(rule(A, timeouts={"request": "3s"}), parents=[PARENT, SET]), route_of(rule(A), hostnames=["a.example"]),
        route_of(rule(A, sessionPersistence={"sessionName": "s"})), route_of(rule({"name": "gone", "port": 80})),
        route_of(rule(A, retry={"attempts": 3, "codes": [502]}), parents=[{**PARENT, "sectionName": "two"}]), "broken",
    ),
    made(GATEWAY, "HTTPRoute", "two", "team", route_of(rule({**A, "namespace": "shop"})), route_of(rule(B)),
         route_of(rule({"name": "x", "kind": "Odd"})), creationTimestamp=""),
    made(GATEWAY, "GRPCRoute", "calls", "shop", route_of(rule(A)), route_of(rule(ORDERS), hostnames=["a.example"])),
    made(GATEWAY, "TCPRoute", "tcp", "shop", {"parentRefs": [PARENT], "rules": [rule(A, {**B, "weight": 2})]},
         {"parentRefs": [{**PARENT, "sectionName": "tcp"}], "rules": [rule(ORDERS)]}),
    made("v1", "Service", "a", "shop", {"ports": [{"name": "x", "port": 80}]}, {"ports": [{"port": 81}]},
         {"ports": [{"name": "x", "port": 80, "appProtocol": "kubernetes.io/h2c"}]}, {"ports": [{"port": 80, "appProtocol": "odd"}]}),
    made("v1", "Service", "b", "infra", {"ports": [{"port": 80}]}),
    made(GATEWAY, "ReferenceGrant", "grant", "infra",
         {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
          "to": [{"group": "", "kind": "Service"}]},
         {"from": [{"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": "shop"}],
          "to": [{"group": "", "kind": "Service", "name": "b"}]}),
    made(GATEWAY, "BackendTLSPolicy", "tls", "shop",
         {"targetRefs": [{"group": "", "kind": "Service", "name": "a"}],
          "validation": {"hostname": "a.example", "wellKnownCACertificates": "System"}},
         {"targetRefs": [{"group": "", "kind": "Service", "name": "a", "sectionName": "x"}],
          "validation": {"hostname": "a.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}),
    made(NEXUS, "NexusService", "orders", "shop", {"backend": {"addresses": ["10.0.0.1:80"]}},
         {"backend": {"addresses": ["10.0.0.2:80"]}, "expose": {"path": "/orders"}, "policy": {"retry": {"attempts": 1}}},
         {"backend": {"kubernetesService": {"name": "a", "port": 80}}, "policy": {"rateLimit": [{"requests": 2}]}}, "broken"),
    made(NEXUS, "NexusPolicy", "wide", "infra", *(
        {"targetRefs": [{"kind": "Gateway", "name": "main"}], **said}
        for said in ({"retry": {"attempts": 3}}, {"tls": {"verify": True}}, {"rateLimit": [{"requests": 1}]}, {"odd": 1})
    )),
    made(NEXUS, "NexusPolicy", "narrow", "shop", *(
        {"targetRefs": [{"kind": kind, "name": name}], **said}
        for kind, name, said in (
            ("HTTPRoute", "one", {"timeouts": {"requestSeconds": 4}}),
            ("NexusService", "orders", {"tls": {"verify": False}}),
            ("NexusService", "orders", {"mirror": {"service": "orders"}}),
            ("HTTPRoute", "one", {"timeouts": "broken"}),
        )
    )),
    made(NEXUS, "NexusPlugin", "demo", "shop", {"plugin": "demo"}, {"plugin": "demo", "order": 3},
         {"plugin": "demo", "targetRefs": [{"kind": "NexusService", "name": "orders"}]}, "broken"),
    ({"apiVersion": NEXUS, "kind": "NexusMarketplace", "metadata": {"name": "official"},
      "spec": {"source": {"bundled": True}, "publishers": [{"name": "nexus", "publicKey": "A" * 43 + "="}]}},),
)  # fmt: skip

worlds = st.tuples(*(st.integers(0, len(variants) - 1) for variants in UNIVERSE))
changes = st.dictionaries(st.integers(0, len(UNIVERSE) - 1), st.integers(0, 20), min_size=1, max_size=3)
RESOURCES: dict[tuple[int, int], Resource] = {
    (index, number): parse(variant)
    for index, variants in enumerate(UNIVERSE)
    for number, variant in enumerate(variants)
    if variant is not None
}


def of(world: list[int]) -> list[Resource]:
    return [RESOURCES[place] for place in enumerate(world) if place in RESOURCES]


def anew(resources: list[Resource], previous: Snapshot | None) -> Translation:
    return translate(resources, previous=previous, indexes=INDEXES, sealer=SEALER)


@settings(max_examples=150)
@given(worlds, st.lists(changes, max_size=6), st.booleans())
def test_a_session_gives_what_a_cold_run_gives(
    first: tuple[int, ...], steps: list[dict[int, int]], published: bool
) -> None:
    """published: whether each Snapshot is the previous one of the next; in a lost Consul it is not."""
    session = Session()
    world = list(first)
    previous: Snapshot | None = None
    for step in [{}, *steps]:
        for index, number in step.items():
            world[index] = number % len(UNIVERSE[index])
        found = session.translate(of(world), previous=previous, indexes=INDEXES, sealer=SEALER)
        cold = anew(of(world), previous)
        assert found.snapshot == cold.snapshot
        assert found == cold
        assert wire.encode(found.snapshot).digest == wire.encode(cold.snapshot).digest
        if published:
            previous = found.snapshot


def test_what_did_not_change_is_taken_over() -> None:
    session = Session()
    world = [0] * len(UNIVERSE)
    before = session.translate(of(world), indexes=INDEXES, sealer=SEALER).snapshot
    services = next(index for index, variants in enumerate(UNIVERSE) if (variants[0] or {})["metadata"]["name"] == "b")
    world[services] = 1  # the Service that only another route names
    after = session.translate(of(world), previous=before, indexes=INDEXES, sealer=SEALER).snapshot
    same = {route.id for route in before.routes} & {route.id for route in after.routes}
    assert same
    kept = {route.id for route in after.routes if any(route is other for other in before.routes)}
    assert "HTTPRoute/shop/one" in kept


EVERY_FORM = [(index, number) for index, variants in enumerate(UNIVERSE) for number in range(len(variants))]


@pytest.mark.parametrize("held", EVERY_FORM, ids=str)
def test_each_object_may_take_each_form_beside_each_form_of_another(held: tuple[int, int]) -> None:
    """Around a world in which all is well: one object is held in one form, each other one changes to each of its forms and back."""
    session = Session()
    world = [0] * len(UNIVERSE)
    world[held[0]] = held[1]
    previous = session.translate(of(world), indexes=INDEXES, sealer=SEALER).snapshot
    for index, number in EVERY_FORM:
        if index == held[0]:
            continue
        before, world[index] = world[index], number
        found = session.translate(of(world), previous=previous, indexes=INDEXES, sealer=SEALER)
        assert found == anew(of(world), previous), (index, number)
        world[index] = before
        found = session.translate(of(world), previous=previous, indexes=INDEXES, sealer=SEALER)
        assert found == anew(of(world), previous), f"back from {index, number}"
