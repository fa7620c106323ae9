"""Which Gateways get a data plane, and what their Services and pods say."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_core.translate import translate
from nexus_operator.children.dataplanes import label_of
from nexus_operator.children.gateways import Planned, of_deleted_classes, plan_data_planes
from nexus_operator.mirror.endpoints import slices_by_service
from nexus_operator.publication.fleets import Replica
from nexus_operator.status.fronts import fronts_of, replicas_of
from nexus_operator.status.view import Front
from nexus_operator.world.addresses import Address, addresses_of, url_of
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED

API = "gateway.networking.k8s.io/v1"
CLASS = {
    "apiVersion": API, "kind": "GatewayClass", "metadata": {"name": "nexus"},
    "spec": {"controllerName": "nexus.dev/gateway-controller"},
}  # fmt: skip
EXPOSED = {
    "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"backend": {"addresses": ["10.0.0.1:80"]}, "expose": {"path": "/"}},
}  # fmt: skip
PARAMETERS = {
    "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters", "metadata": {"name": "nexus", "namespace": "nexus-system"},
    "spec": {"replicas": 4},
}  # fmt: skip


def gateway(name: str = "web", *ports: int, **more: Any) -> dict[str, Any]:
    listeners = [{"name": f"p{port}", "port": port, "protocol": "HTTP"} for port in ports or (80,)]
    spec = {"gatewayClassName": "nexus", "listeners": listeners, **more}
    return {"apiVersion": API, "kind": "Gateway", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def owned_by(name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "Gateway", "name": name, "uid": uid, "controller": True}


def world(*objects: dict[str, Any], installed: bool = True) -> tuple[Inventory, Planned]:
    inventory = Inventory(kind.kind for kind in WATCHED)
    for kind in WATCHED:
        inventory.replace(kind.kind, (), 1 if installed else 0)
    for number, obj in enumerate(objects):
        meta = {"uid": f"u{number}", "generation": 1, "resourceVersion": str(number + 2), **obj["metadata"]}
        inventory.observe(obj["kind"], {**obj, "metadata": meta})
    kinds = ("GatewayClass", "Gateway", "ListenerSet", "NexusService", "NexusGatewayParameters")
    resources = [parse(obj) for kind in kinds for obj in inventory.all(kind)]
    parameters = {(r.ref.namespace, r.ref.name): r for r in resources if r.ref.kind == "NexusGatewayParameters"}
    planned = plan_data_planes(
        translate(resources, standing=of_deleted_classes(inventory)),
        inventory,
        parameters,
        namespace="nexus-system",
        default_parameters=("nexus-system", "nexus"),
    )
    return inventory, planned


def test_each_gateway_of_ours_has_one_with_the_ports_that_serve() -> None:
    other = gateway("theirs")
    other["spec"]["gatewayClassName"] = "other"
    leaving = gateway("leaving")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    _, planned = world(CLASS, gateway("web", 80, 8080), other, leaving)
    assert set(planned.planes) == {"shop/web"}
    plane = planned.planes["shop/web"]
    assert plane.infrastructure.ports == ((80, "TCP"), (8080, "TCP"))
    assert plane.owner is not None
    assert (plane.owner["kind"], plane.owner["name"], plane.owner["uid"]) == ("Gateway", "web", "u1")
    assert plane.class_name == "nexus"


def test_a_gateway_that_cannot_be_used_keeps_what_it_has_and_shows_it() -> None:
    service = {
        "kind": "Service", "metadata": {"name": "odd-nexus", "namespace": "shop", "ownerReferences": [owned_by("odd", "u1")]},
        "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    }  # fmt: skip
    inventory, planned = world(CLASS, gateway("odd", addresses=[{"type": "example.com/odd", "value": "x"}]), service)
    assert planned.planes == {}
    assert planned.owners == {"u1"}
    assert fronts_of(inventory, planned, {})["shop/odd"].addresses == (Address("IPAddress", "192.0.2.1"),)


def test_a_gateway_whose_class_was_deleted_keeps_what_it_has() -> None:
    """What runs by the class's parameters is not made anew without them."""
    _, planned = world(gateway())
    assert planned.planes == {}
    assert set(planned.standing) == {"shop/web"}
    assert planned.owners == {"u0"}


def made(kind: str, by: str, uid: str = "u1", owner: str = "web", **more: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "nexus", "gateway.networking.k8s.io/gateway-class-name": by, **more}
    meta = {"name": "web-nexus", "namespace": "shop", "labels": labels, "ownerReferences": [owned_by(owner, uid)]}
    return {"kind": kind, "metadata": meta, "spec": {}}


LONG = "second-" + "x" * 90


@pytest.mark.parametrize(
    ("name", "children", "stands"),
    [
        ("second", [made("Deployment", "second"), made("Service", "second")], True),
        ("second", [made("Deployment", "second")], True),
        ("second", [made("Service", "second")], True),
        (LONG, [made("Deployment", label_of(LONG))], True),
        ("second", [], False),
        ("nexsu", [made("Deployment", "nexus"), made("Service", "nexus")], False),  # moved there
        ("second", [made("Deployment", "second", uid="u9")], False),  # of a Gateway of this name before
        ("second", [made("Deployment", "second", **{"app.kubernetes.io/managed-by": "other"})], False),
    ],
)
def test_a_gateway_stays_ours_while_what_its_deleted_class_made_is_there(
    name: str, children: list[dict[str, Any]], stands: bool
) -> None:
    _, planned = world(CLASS, gateway(gatewayClassName=name), *children)
    assert planned.planes == {}
    assert set(planned.standing) == ({"shop/web"} if stands else set())
    assert planned.owners == (frozenset({"u1"}) if stands else frozenset())


def test_what_a_deleted_class_made_goes_once_another_controller_has_that_class() -> None:
    theirs = {**CLASS, "metadata": {"name": "second"}, "spec": {"controllerName": "example.com/other"}}
    _, planned = world(gateway(gatewayClassName="second"), theirs, made("Deployment", "second"))
    assert planned.all == {}


def test_a_deleted_class_that_comes_back_has_its_data_planes_again() -> None:
    back = {**CLASS, "metadata": {"name": "second"}}
    _, planned = world(gateway(gatewayClassName="second"), back, made("Deployment", "second"))
    assert set(planned.planes) == {"shop/web"}
    assert planned.owners == frozenset()


def test_a_gateway_without_a_listener_that_serves_keeps_its_service() -> None:
    _, planned = world(CLASS, gateway("bare", listeners=[{"name": "x", "port": 80, "protocol": "GOPHER"}]))
    assert planned.planes["shop/bare"].infrastructure.ports == ()
    assert planned.children == {("Service", "shop", "bare-nexus")}


@pytest.mark.parametrize(
    ("objects", "installed", "stands_in"),
    [
        ((), False, True),
        ((EXPOSED,), False, True),
        ((), True, False),
        ((EXPOSED,), True, True),
        ((CLASS,), True, False),
        ((CLASS, gateway(), EXPOSED), True, False),
    ],
)
def test_one_stands_in_where_nothing_else_could_serve(
    objects: tuple[dict[str, Any], ...], installed: bool, stands_in: bool
) -> None:
    """Where the Gateway API is, it waits for something to serve: a load balancer costs money."""
    _, planned = world(*objects, installed=installed)
    assert ("nexus/default" in planned.planes) is stands_in


def test_the_stand_in_runs_as_the_release_says_and_goes_with_it() -> None:
    _, planned = world(PARAMETERS, installed=False)
    plane = planned.planes["nexus/default"]
    assert plane.namespace == "nexus-system"
    assert plane.infrastructure.parameters is not None
    assert plane.infrastructure.parameters.replicas == 4
    assert plane.owner is not None
    assert (plane.owner["kind"], plane.owner["name"]) == ("NexusGatewayParameters", "nexus")


def test_a_front_is_the_services_addresses_and_the_endpoints_that_take_traffic() -> None:
    service = {
        "kind": "Service", "metadata": {"name": "web-nexus", "namespace": "shop", "ownerReferences": [owned_by("web", "u1")]},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}},
    }  # fmt: skip

    def piece(name: str, *endpoints: dict[str, Any]) -> dict[str, Any]:
        labels = {"kubernetes.io/service-name": "web-nexus"}
        return {
            "kind": "EndpointSlice", "metadata": {"name": name, "namespace": "shop", "labels": labels}, "addressType": "IPv4",
            "endpoints": list(endpoints),
        }  # fmt: skip

    def endpoint(pod: str, ready: bool) -> dict[str, Any]:
        return {"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"name": pod}}

    inventory, planned = world(
        CLASS,
        gateway(),
        service,
        piece("a", endpoint("p1", True), endpoint("p2", False)),
        piece("b", endpoint("p1", True)),
    )
    assert fronts_of(inventory, planned, slices_by_service(inventory)) == {
        "shop/web": Front(True, (Address("IPAddress", "192.0.2.1"), Address("Hostname", "lb.example")), 1)
    }


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"labels": {"app.kubernetes.io/managed-by": "nexus"}},
        {"ownerReferences": [owned_by("web", "of-the-gateway-before")]},
        {"ownerReferences": [{**owned_by("web", "u1"), "controller": False}]},
    ],
)
def test_a_service_of_that_name_which_somebody_else_made_is_no_front(meta: dict[str, Any]) -> None:
    service = {
        "kind": "Service", "metadata": {"name": "web-nexus", "namespace": "shop", **meta}, "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    }  # fmt: skip
    endpoints = {
        "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
        "metadata": {"name": "x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web-nexus"}},
    }  # fmt: skip
    inventory, planned = world(CLASS, gateway(), service, endpoints)
    assert fronts_of(inventory, planned, slices_by_service(inventory)) == {"shop/web": Front(exists=False)}


def test_pods_are_found_by_their_label_and_those_that_end_do_not_count() -> None:
    def pod(name: str, gateway_name: str, ready: str, **meta: Any) -> dict[str, Any]:
        labels = {"gateway.networking.k8s.io/gateway-name": gateway_name}
        status = {"conditions": [{"type": "Ready", "status": ready}]}
        return {
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": labels, **meta},
            "status": status,
        }

    inventory, planned = world(
        CLASS, gateway(), pod("a", "web", "True"), pod("b", "web", "False"), pod("c", "other", "True"),
        pod("d", "web", "True", deletionTimestamp="2026-01-01T00:00:00Z"),
    )  # fmt: skip
    assert replicas_of(inventory, planned) == {"a": Replica("shop/web", True), "b": Replica("shop/web", False)}


@pytest.mark.parametrize(
    ("spec", "ingress", "expected"),
    [
        ({"type": "LoadBalancer", "clusterIP": "10.96.0.1"}, [], []),
        ({"type": "LoadBalancer", "externalIPs": ["192.0.2.9"]}, [{"ip": "192.0.2.1"}], ["192.0.2.1", "192.0.2.9"]),
        (
            {"type": "ClusterIP", "clusterIPs": ["10.96.0.1", "fd00::1"], "clusterIP": "10.96.0.1"},
            [],
            ["10.96.0.1", "fd00::1"],
        ),
        ({"type": "NodePort", "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.9"]}, [], ["192.0.2.9", "10.96.0.1"]),
        ({"type": "ClusterIP", "clusterIP": "None"}, [], []),
        ({"type": "LoadBalancer"}, [{"ip": f"192.0.2.{n}"} for n in range(20)], [f"192.0.2.{n}" for n in range(16)]),
    ],
)
def test_addresses_of_services(spec: dict[str, Any], ingress: list[dict[str, Any]], expected: list[str]) -> None:
    service = {"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}
    assert [address.value for address in addresses_of(service)] == expected


@pytest.mark.parametrize(
    ("address", "port", "scheme", "expected"),
    [
        ("192.0.2.1", 80, "http", "http://192.0.2.1"),
        ("192.0.2.1", 443, "https", "https://192.0.2.1"),
        ("2001:db8::1", 8080, "http", "http://[2001:db8::1]:8080"),
        ("lb.example", 80, "https", "https://lb.example:80"),
    ],
)
def test_urls_leave_out_the_schemes_own_port(address: str, port: int, scheme: str, expected: str) -> None:
    assert url_of(address, port, scheme) == expected
