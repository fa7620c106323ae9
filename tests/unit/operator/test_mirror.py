"""EndpointSlices to catalog registrations, and what has to be written."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.translate import Mirror
from nexus_operator.mirror.endpoints import build_registrations
from nexus_operator.mirror.registrations import Registration, counts, diff

MIRROR = Mirror("orders.shop", "shop", "orders", 80, (), {"nexus-type": "http"})


def service(*ports: dict[str, Any], families: tuple[str, ...] = ("IPv4",)) -> dict[str, Any]:
    return {"spec": {"ports": list(ports or ({"name": "http", "port": 80},)), "ipFamilies": list(families)}}


def endpoint(address: str, pod: str = "", **conditions: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    return {**found, "targetRef": {"kind": "Pod", "name": pod}} if pod else found


def piece(*endpoints: dict[str, Any], port: int = 8000, name: str = "http", family: str = "IPv4") -> dict[str, Any]:
    return {"addressType": family, "ports": [{"name": name, "port": port}], "endpoints": list(endpoints)}


def mirror(*pieces: dict[str, Any], of: dict[str, Any] | None = None) -> dict[str, Registration]:
    key = ("shop", "orders")
    return build_registrations([MIRROR], {key: of or service()}, {key: pieces}, "nexus")


def test_a_ready_pod_is_registered_passing_under_its_own_port() -> None:
    [entry] = mirror(piece(endpoint("10.0.0.1", "orders-a", ready=True))).values()
    assert entry == Registration(
        id="orders.shop/orders-a:8000", service="orders.shop", address="10.0.0.1", port=8000, passing=True,
        meta=(("nexus-installation", "nexus"), ("nexus-type", "http"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "passing", "draining"),
    [
        ({}, True, False),  # discovery/v1: absent means ready
        ({"ready": True}, True, False),
        ({"ready": False}, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True),
        ({"ready": True, "terminating": True}, False, True),  # publishNotReadyAddresses: going all the same
    ],
)
def test_readiness_becomes_the_check_and_what_terminates_is_marked(
    conditions: dict[str, bool], passing: bool, draining: bool
) -> None:
    [entry] = mirror(piece(endpoint("10.0.0.1", **conditions))).values()
    assert entry.passing is passing
    assert dict(entry.meta).get("nexus-draining") == ("true" if draining else None)


def test_of_two_ports_with_one_number_the_mirrors_protocol_tells_which() -> None:
    dns = Mirror("dns.shop.53.udp", "shop", "orders", 53, protocol="UDP")
    both = service({"name": "tcp", "port": 53, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"})
    pieces = [piece(endpoint("10.0.0.1"), port=5300, name="tcp"), piece(endpoint("10.0.0.1"), port=5353, name="udp")]
    [entry] = build_registrations([dns], {("shop", "orders"): both}, {("shop", "orders"): pieces}, "nexus").values()
    assert entry.port == 5353


def test_the_zone_of_an_endpoint_is_in_its_meta() -> None:
    [entry] = mirror(piece({**endpoint("10.0.0.1"), "zone": "eu-1"})).values()
    assert dict(entry.meta)["nexus-zone"] == "eu-1"


def test_an_endpoint_in_two_slices_is_one_and_ready_wins() -> None:
    slices = piece(endpoint("10.0.0.1", "a", ready=False)), piece(endpoint("10.0.0.1", "a", ready=True))
    for pieces in (slices, slices[::-1]):
        [entry] = mirror(*pieces).values()
        assert entry.passing


def test_only_the_services_first_family_is_mirrored() -> None:
    pieces = piece(endpoint("10.0.0.1", "a")), piece(endpoint("fd00::1", "a"), family="IPv6")
    [four] = mirror(*pieces).values()
    assert four.address == "10.0.0.1"
    [six] = mirror(*pieces, of=service(families=("IPv6", "IPv4"))).values()
    assert six.address == "fd00::1"


def test_the_port_is_found_by_its_name() -> None:
    both = {**piece(endpoint("10.0.0.1", "a")), "ports": [{"name": "admin", "port": 9}, {"name": "http", "port": 8000}]}
    [entry] = mirror(both).values()
    assert entry.port == 8000
    [unnamed] = mirror(piece(endpoint("10.0.0.1"), name=""), of=service({"port": 80})).values()
    assert unnamed.port == 8000


@pytest.mark.parametrize(
    "of",
    [service({"name": "http", "port": 81}), service({"name": "other", "port": 80})],
    ids=["no such port", "no such name"],
)
def test_a_port_that_is_not_there_has_no_endpoints(of: dict[str, Any]) -> None:
    assert mirror(piece(endpoint("10.0.0.1")), of=of) == {}


def test_a_service_that_does_not_exist_has_no_endpoints() -> None:
    assert build_registrations([MIRROR], {}, {("shop", "orders"): [piece(endpoint("10.0.0.1"))]}, "nexus") == {}


def test_addresses_that_are_names_are_left_out() -> None:
    assert mirror(piece(endpoint("example.com"), family="FQDN")) == {}


def entry(name: str, **changes: Any) -> Registration:
    return Registration(**{"id": name, "service": "s", "address": "10.0.0.1", "port": 1, "passing": True, **changes})


def test_the_difference_is_what_makes_them_equal() -> None:
    held = {e.id: e for e in (entry("same"), entry("changed"), entry("gone"))}
    wanted = {e.id: e for e in (entry("same"), entry("changed", passing=False), entry("new"))}
    difference = diff(wanted, held)
    assert [e.id for e in difference.register] == ["changed", "new"]
    assert difference.deregister == ("gone",)
    after = {k: v for k, v in held.items() if k not in difference.deregister} | {e.id: e for e in difference.register}
    assert after == wanted
    assert not diff(wanted, after)


def test_counts_are_ready_of_all() -> None:
    entries = entry("a"), entry("b", passing=False), entry("c", service="t")
    assert counts(entries) == {"s": (1, 2), "t": (1, 1)}
