"""Objects that are looked at before they are applied: what serves in their place, and what they are told to change."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Published, Snapshot, wire
from nexus_core.snapshot.samples import Sample, encode_samples
from nexus_core.translate import Translation, translate
from nexus_operator.publication.acks import Ledger, fingerprints
from nexus_operator.publication.fleets import Fleet
from nexus_operator.publication.previews import (
    ANNOTATION,
    Held,
    build_preview,
    hold_back,
    is_previewed,
    read_samples,
)
from nexus_operator.status.build import build_statuses
from nexus_operator.status.conditions import merge
from nexus_operator.status.view import View
from nexus_operator.status.writes import needed
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED

GATEWAY_API = "gateway.networking.k8s.io/v1"
SAMPLES = tuple(Sample("GET", "", path) for path in ("/orders", "/orders/7", "/cart"))


def manifest(kind: str, name: str, spec: dict[str, Any], *, preview: bool = False, uid: str = "") -> dict[str, Any]:
    api = "nexus.dev/v1alpha1" if kind.startswith("Nexus") else GATEWAY_API
    meta: dict[str, Any] = {"name": name, "namespace": "shop", "uid": uid or f"{kind}-{name}", "generation": 1}
    meta["resourceVersion"] = "1"
    if kind == "GatewayClass":
        del meta["namespace"]
    if preview:
        meta["annotations"] = {ANNOTATION: "true"}
    return {"apiVersion": api, "kind": kind, "metadata": meta, "spec": spec}


def service(name: str, path: str, **more: Any) -> dict[str, Any]:
    return manifest("NexusService", name, {"backend": {"addresses": ["10.0.0.1:80"]}, "expose": {"path": path}}, **more)


def policy(name: str, requests: int, **more: Any) -> dict[str, Any]:
    spec = {
        "targetRefs": [{"kind": "NexusService", "name": "orders"}],
        "rateLimit": [{"requests": requests, "perSeconds": 1}],
        "timeouts": {"requestSeconds": requests},
    }
    return manifest("NexusPolicy", name, spec, **more)


def held(*objects: dict[str, Any], applied: Held | None = None) -> Held:
    return hold_back([parse(each) for each in objects], applied.applied if applied is not None else {})


def snapshot(held: Held, previous: Snapshot | None = None) -> Snapshot:
    return translate(held.world, previous=previous).snapshot


def test_only_true_on_kinds_that_can_be_previewed_asks_for_it() -> None:
    asks = service("orders", "/orders", preview=True)
    assert is_previewed(parse(asks))
    asks["metadata"]["annotations"][ANNOTATION] = "false"
    assert not is_previewed(parse(asks))
    assert not is_previewed(parse(manifest("GatewayClass", "x", {"controllerName": "x"}, preview=True)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (service("orders", "/orders"), service("orders", "/moved", preview=True)),
        (policy("calm", 10), policy("calm", 5, preview=True)),
    ],
)
def test_what_was_applied_last_serves_while_a_change_is_previewed(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    rest = [service("orders", "/orders")] if before["kind"] == "NexusPolicy" else [service("cart", "/cart")]
    one = held(*rest, before)
    two = held(*rest, after, applied=one)
    assert snapshot(two, snapshot(one)) == snapshot(one)
    assert two.previewed == (parse(after).ref,)
    three = held(*rest, after, applied=two)
    assert snapshot(three, snapshot(one)) == snapshot(one), "in every round"
    assert three.applied[parse(after).ref] == parse(before)


def test_an_operator_that_remembers_nothing_keeps_what_is_published() -> None:
    published = snapshot(held(service("orders", "/orders")))
    later = held(service("orders", "/moved", preview=True))
    assert snapshot(later, published) == published


def test_a_policy_stays_as_published_although_an_operator_remembers_nothing() -> None:
    published = snapshot(held(service("orders", "/orders"), policy("calm", 10)))
    later = held(service("orders", "/orders"), policy("calm", 99, preview=True))
    found = snapshot(later, published)
    assert found == published
    assert published.routes[0].rules[0].filters
    assert found.routes[0].rules[0].filters == published.routes[0].rules[0].filters
    assert "99" not in repr(found)


def test_a_new_object_is_not_there_until_the_annotation_is_gone() -> None:
    one = held(service("orders", "/orders", preview=True))
    assert snapshot(one).routes == ()
    two = held(service("orders", "/orders"), applied=one)
    assert [each.id for each in snapshot(two).routes] == ["NexusService/shop/orders"]


def test_a_new_policy_changes_nothing_until_the_annotation_is_gone() -> None:
    one = held(service("orders", "/orders"))
    two = held(service("orders", "/orders"), policy("calm", 10, preview=True), applied=one)
    assert snapshot(two, snapshot(one)) == snapshot(one)
    three = held(service("orders", "/orders"), policy("calm", 10), applied=two)
    assert snapshot(three, snapshot(one)) != snapshot(one)


def test_an_object_of_the_same_name_made_anew_is_new() -> None:
    one = held(service("orders", "/orders", uid="a"))
    two = held(service("orders", "/orders", uid="b", preview=True), applied=one)
    assert snapshot(two).routes == ()


def test_a_broken_version_is_no_last_good_one() -> None:
    good = held(service("orders", "/orders"))
    broken = service("orders", "/orders")
    broken["spec"]["expose"] = {"pth": "/x"}
    bad = held(broken, applied=good)
    assert bad.applied == good.applied
    assert snapshot(held(service("orders", "/new", preview=True), applied=bad)) == snapshot(good)


def test_samples_of_all_gateways_are_read_and_unreadable_ones_told() -> None:
    found, sentences = read_samples(
        [("b", encode_samples(SAMPLES[:1])[0]), ("a", encode_samples(SAMPLES)[0]), ("c", b"?")]
    )
    assert found == (*SAMPLES, SAMPLES[0])
    assert len(sentences) == 1
    assert sentences[0].startswith("c: ")


def view(*objects: dict[str, Any], applied: Held | None = None, samples: tuple[Sample, ...] = SAMPLES) -> View:
    inventory = Inventory(kind.kind for kind in WATCHED)
    for each in objects:
        inventory.observe(each["kind"], each)
    every: list[Resource] = [parse(each) for each in objects]
    back = hold_back(every, applied.applied if applied is not None else {})
    previous = snapshot(applied) if applied is not None else None
    translation: Translation = translate(back.world, previous=previous)
    candidate = translate(every, previous=previous)
    published = Published(1, wire.encode(translation.snapshot).digest, translation.snapshot)
    ledger = Ledger()
    ledger.record(published)
    return View(
        inventory=inventory, resources=back.world, translation=translation, published=published,
        wanted=fingerprints(translation.snapshot), since=ledger.since, fleet=Fleet((), {}, published), now_utc="2026-02-02T00:00:00Z",
        docs_base="docs/errors/",
        preview=build_preview(back.previewed, samples, translation.snapshot, candidate.snapshot) if back.previewed else None,
        candidate_problems=candidate.problems,
    )  # fmt: skip


def conditions(seen: View, name: str) -> dict[str, Any]:
    (write,) = [each for each in build_statuses(seen) if each.obj["metadata"]["name"] == name]
    found = write.status.get("conditions") or write.status["parents"][0]["conditions"]
    return {each["type"]: each for each in found}


def test_the_condition_says_what_the_change_would_do() -> None:
    before = held(service("orders", "/orders"), service("cart", "/cart"))
    seen = view(service("orders", "/moved", preview=True), service("cart", "/cart"), applied=before)
    told = conditions(seen, "orders")["Preview"]
    assert (told["status"], told["reason"]) == ("True", "ReplayCompared")
    assert "0 of 3 sampled requests change route; 2 would find no route" in told["message"]
    assert "no-route: GET /orders" in told["message"]
    assert "Preview" not in conditions(seen, "cart")


def test_without_samples_it_says_that_it_waits() -> None:
    seen = view(service("orders", "/orders", preview=True), samples=())
    told = conditions(seen, "orders")["Preview"]
    assert (told["status"], told["reason"]) == ("Unknown", "SamplePending")


@pytest.mark.parametrize("held_back", [service("fresh", "/fresh", preview=True), policy("fresh", 3, preview=True)])
def test_what_is_new_and_held_back_is_not_called_broken(held_back: dict[str, Any]) -> None:
    told = conditions(view(service("orders", "/orders"), held_back), "fresh")
    assert {told[kind]["status"] for kind in ("Accepted", "Ready")} == {"Unknown"}
    assert "not applied" in told["Accepted"]["message"]


def test_what_would_be_refused_is_told() -> None:
    broken = service("orders", "/orders", preview=True)
    broken["spec"]["expose"] = {"pth": "/x"}
    told = conditions(view(broken, applied=held(service("orders", "/orders"))), "orders")["Preview"]
    assert (told["status"], told["reason"]) == ("False", "CandidateInvalid")
    assert "pth" in told["message"]


def test_a_route_shows_it_at_its_parent() -> None:
    cls = manifest("GatewayClass", "nexus", {"controllerName": "nexus.dev/gateway-controller"})
    gateway = manifest(
        "Gateway", "web", {"gatewayClassName": "nexus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
    )
    spec = {
        "parentRefs": [{"name": "web"}],
        "rules": [{"backendRefs": [{"kind": "NexusService", "group": "nexus.dev", "name": "orders"}]}],
    }
    route = manifest("HTTPRoute", "shop", spec, preview=True)
    seen = view(cls, gateway, service("orders", "/orders"), route)
    told = conditions(seen, "shop")["Preview"]
    assert told["reason"] == "ReplayCompared", told
    assert conditions(seen, "shop")["Accepted"]["reason"] == "Pending", "it is not broken, it is held back"
    assert "0 of 3 sampled requests change route; 1 would find a route where there was none" in told["message"]


@pytest.mark.parametrize(
    ("kind", "protocol"), [("GRPCRoute", "HTTP"), ("TLSRoute", "TLS"), ("TCPRoute", "TCP"), ("UDPRoute", "UDP")]
)
def test_routes_of_every_kind_are_held_back(kind: str, protocol: str) -> None:
    cls = manifest("GatewayClass", "nexus", {"controllerName": "nexus.dev/gateway-controller"})
    listener = {"name": "x", "port": 90, "protocol": protocol}
    if protocol == "TLS":
        listener["tls"] = {"mode": "Passthrough"}
    gateway = manifest("Gateway", "web", {"gatewayClassName": "nexus", "listeners": [listener]})
    ports = {"ports": [{"port": 80, "protocol": "UDP" if kind == "UDPRoute" else "TCP"}]}
    backend = {**manifest("Service", "back", ports), "apiVersion": "v1"}
    spec: dict[str, Any] = {"parentRefs": [{"name": "web"}], "rules": [{"backendRefs": [{"name": "back", "port": 80}]}]}
    if kind == "TLSRoute":
        spec["hostnames"] = ["a.example"]
    route = manifest(kind, "shop", spec, preview=True)
    alone = snapshot(held(cls, gateway, backend, route))
    assert not alone.routes, "nothing of it serves"
    assert not alone.streams
    seen = view(cls, gateway, backend, route)
    told = conditions(seen, "shop")
    assert told["Preview"]["reason"] == "ReplayCompared", told
    assert told["Accepted"]["reason"] == "Pending"
    applied = snapshot(held(cls, gateway, backend, manifest(kind, "shop", spec)))
    assert len(applied.routes) + len(applied.streams) == 1


def test_listeners_of_a_set_are_held_back() -> None:
    cls = manifest("GatewayClass", "nexus", {"controllerName": "nexus.dev/gateway-controller"})
    listener = {"name": "x", "port": 80, "protocol": "HTTP"}
    allowed = {"namespaces": {"from": "All"}}
    gateway = manifest(
        "Gateway", "web", {"gatewayClassName": "nexus", "listeners": [listener], "allowedListeners": allowed}
    )
    more = {"parentRef": {"name": "web"}, "listeners": [{**listener, "port": 81}]}
    applied = snapshot(held(cls, gateway, manifest("ListenerSet", "more", more)))
    previewed = held(cls, gateway, manifest("ListenerSet", "more", more, preview=True))
    assert len(applied.listeners) == 2
    assert len(snapshot(previewed).listeners) == 1
    assert len(snapshot(previewed, applied).listeners) == 2, "what is out goes on"


def test_the_condition_goes_with_the_annotation_and_is_not_written_twice() -> None:
    before = held(service("orders", "/orders"))
    seen = view(service("orders", "/moved", preview=True), applied=before)
    (write,) = needed(build_statuses(seen))
    kept = merge(write.status["conditions"], (), generation=1, now_utc="x")
    assert kept == []
    obj = {
        **service("orders", "/moved", preview=True),
        "status": {k: v for k, v in write.status.items() if v is not None},
    }
    assert needed(build_statuses(view(obj, applied=before))) == ()
    after = {**service("orders", "/moved"), "status": obj["status"]}
    assert "Preview" not in conditions(view(after, applied=before), "orders")
    assert (
        ObjectRef("NexusService", "shop", "orders")
        not in (view(after, applied=before).preview or Held((), (), {})).previewed
    )
