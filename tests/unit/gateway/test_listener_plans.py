"""From listeners to doors, fronts and sites: where ports are opened, who shares one, who is refused."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.snapshot import Listener, ListenerTls
from nexus_gateway.edge.listeners.plans import CERTIFICATES, PLAIN, SECURE, Addresses, Plan, build

LOCAL = Addresses(False, ("127.0.0.1",), ("127.0.0.1", 8080))
DECLARED = Addresses(True, ("0.0.0.0", "::"), ("127.0.0.1", 8080))


def one(name: str, port: int, protocol: Any = "HTTP", hostname: str = "", **tls: Any) -> Listener:
    ends = ListenerTls(**tls) if protocol in ("HTTPS", "TLS") else None
    return Listener(name if "/" in name else f"shop/main/{name}", "Gateway shop/main", port, hostname, protocol, ends)


def opened(plan: Plan) -> dict[str, tuple[int, int, str]]:
    """Return by key: the port to bind, the declared one, the family."""
    return {key: (door.port, door.declared, door.family) for key, door in plan.doors.items()}


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        ([], {PLAIN: (8080, 0, "http")}),
        ([one("a", 80)], {PLAIN: (8080, 80, "http")}),
        ([one("a", 81), one("b", 9000)], {PLAIN: (8080, 81, "http"), "tcp:9000": (9000, 9000, "http")}),
        ([one("a", 79), one("b", 80)], {PLAIN: (8080, 80, "http"), "tcp:8079": (8079, 79, "http")}),
        ([one("a", 443, "HTTPS")], {PLAIN: (8080, 0, "http"), SECURE: (8443, 443, "tls")}),
        (
            [one("a", 8444, "TLS"), one("b", 9443, "HTTPS")],
            {PLAIN: (8080, 0, "http"), SECURE: (8443, 8444, "tls"), "tcp:9443": (9443, 9443, "tls")},
        ),
        (
            [one("a", 53, "UDP"), one("b", 53, "TCP"), one("c", 9000, "UDP")],
            {
                PLAIN: (8080, 0, "http"), "tcp:8053": (8053, 53, "tcp"), "udp:8053": (8053, 53, "udp"),
                "udp:9000": (9000, 9000, "udp"),
            },
        ),
    ],
)  # fmt: skip
def test_ports_on_one_machine(listeners: list[Listener], expected: dict[str, tuple[int, int, str]]) -> None:
    plan = build(listeners, LOCAL)
    assert opened(plan) == expected
    assert not plan.refused


def test_ports_as_declared_are_opened_on_every_address_and_nothing_else_is() -> None:
    plan = build([one("a", 80), one("b", 443, "HTTPS"), one("c", 53, "UDP")], DECLARED)
    assert opened(plan) == {"tcp:80": (80, 80, "http"), "tcp:443": (443, 443, "tls"), "udp:53": (53, 53, "udp")}
    assert {door.hosts for door in plan.doors.values()} == {("0.0.0.0", "::")}
    assert build([], DECLARED).doors == {}


@pytest.mark.parametrize(
    ("listeners", "refused", "words"),
    [
        ([one("a", 80), one("b", 80, "HTTPS")], "b", "takes HTTP for the listener shop/main/a; HTTPS cannot share it"),
        ([one("a", 80), one("b", 80, "TCP")], "b", "TCP cannot share it"),
        ([one("a", 9000, "TCP"), one("b", 9000, "TCP")], "b", "TCP has no names to tell the two apart"),
        ([one("a", 53, "UDP"), one("b", 53, "UDP")], "b", "UDP has no names"),
        ([one("a", 80), one("b", 8080)], "b", "would be opened at 8080 here, which is taken"),
        ([one("a", 79), one("b", 80), one("c", 8079)], "c", "would be opened at 8079 here, which is taken"),
        (
            [one("a", 443, "HTTPS", "a.example"), one("b", 443, "TLS", "a.example", mode="passthrough")],
            "b",
            'serves the name "a.example" on port 443 in another way',
        ),
        (
            [one("a", 443, "HTTPS"), one("b", 443, "HTTPS", client_authorities="pem")],
            "b",
            "serves clients of any name on port 443 in another way",
        ),
    ],
)
def test_of_listeners_that_exclude_each_other_the_first_is_served(
    listeners: list[Listener], refused: str, words: str
) -> None:
    for order in (listeners, listeners[::-1]):
        plan = build(order, LOCAL)
        assert list(plan.refused) == [f"shop/main/{refused}"]
        assert words in plan.refused[f"shop/main/{refused}"]
        served = {each.id for door in plan.doors.values() for each in door.listeners}
        assert served == {each.id for each in listeners} - set(plan.refused)


@pytest.mark.parametrize(
    ("server_name", "expected"),
    [
        ("a.example", "a.example"), ("b.example", "*.example"), ("c.b.example", "*.b.example"), ("d.c.b.example", "*.b.example"),
        ("other.org", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_most_specific_name_decides_for_a_tls_client(server_name: str, expected: str) -> None:
    names = ("", "*.example", "*.b.example", "a.example")
    plan = build([one(f"n{index}", 443, "HTTPS", name) for index, name in enumerate(names)], LOCAL)
    front = plan.doors[SECURE].front(server_name)
    assert front is not None
    assert front.hostname == expected


def test_a_name_that_nobody_serves_has_no_front() -> None:
    plan = build([one("a", 443, "HTTPS", "a.example")], LOCAL)
    assert plan.doors[SECURE].front("b.example") is None
    assert plan.doors[SECURE].front("") is None


def test_listeners_of_several_gateways_share_a_name_with_the_certificates_of_all() -> None:
    listeners = [
        one("shop/one/https", 443, "HTTPS", certificates=("Secret/shop/a", "Secret/shop/b")),
        one("shop/two/https", 443, "HTTPS", certificates=("Secret/shop/b", "Secret/shop/c")),
    ]
    [front] = build(listeners, LOCAL).doors[SECURE].fronts.values()
    assert [each.id for each in front.listeners] == ["shop/one/https", "shop/two/https"]
    assert front.tls.certificates == ("Secret/shop/a", "Secret/shop/b", "Secret/shop/c")


def test_sites_are_where_http_comes() -> None:
    plan = build(
        [
            one("http", 80), one("a", 443, "HTTPS", "a.example"), one("b", 443, "TLS", "b.example"),
            one("c", 443, "TLS", "c.example", mode="passthrough"), one("tcp", 9000, "TCP"),
        ],
        LOCAL,
    )  # fmt: skip
    assert set(plan.sites) == {PLAIN, f"{SECURE}/a.example"}
    https = plan.sites[f"{SECURE}/a.example"]
    assert (https.hostname, https.port) == ("a.example", 443)
    # Hosts of other protocols' listeners on the port belong to these.
    assert {each.hostname for each in https.listeners} == {"a.example", "b.example", "c.example"}


def test_certificates_of_a_directory_are_a_site_with_the_routes_of_http() -> None:
    addresses = Addresses(False, ("127.0.0.1",), ("127.0.0.1", 8080), ("127.0.0.1", 8443), always_secure=True)
    plan = build([one("http", 80)], addresses)
    assert opened(plan) == {PLAIN: (8080, 80, "http"), SECURE: (8443, 0, "tls")}
    assert plan.sites[CERTIFICATES].listeners == plan.sites[PLAIN].listeners
    assert (plan.sites[CERTIFICATES].port, plan.sites[CERTIFICATES].elsewhere) == (443, True)


def test_a_site_tells_whether_its_port_is_opened_elsewhere() -> None:
    listeners = [
        one("http", 80), one("more", 8090, hostname="a.example"), one("https", 443, "HTTPS", "a.example"),
        one("open", 9443, "HTTPS", "a.example"), one("low", 81),
    ]  # fmt: skip
    local = {site.port: site.elsewhere for site in build(listeners, LOCAL).sites.values()}
    assert local == {80: True, 81: True, 443: True, 8090: False, 9443: False}
    declared = build(listeners, DECLARED)
    assert {site.port: site.elsewhere for site in declared.sites.values()} == dict.fromkeys(local, False)
