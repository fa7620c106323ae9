"""The plugin `ip-filter`: which addresses pass, in every form that one can be written in."""

from __future__ import annotations

import ipaddress
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import PluginConfigError, Reply, RequestHead
from nexus_plugin_ip_filter import IpFilter
from nexus_plugin_ip_filter.networks import Networks, parse_address, parse_network


def head(client_ip: str) -> RequestHead:
    return RequestHead("GET", "/", client_ip=client_ip, headers=(("x-request-id", "r1"),))


async def passes(make: Any, config: dict[str, Any], client_ip: str) -> bool:
    kit = make(IpFilter, config)
    answers = [await kit.request(head(client_ip)) for _ in range(2)]
    assert type(answers[0]) is type(answers[1]), "what is remembered is what was found"
    return not isinstance(answers[0], Reply)


@pytest.mark.parametrize(
    ("client_ip", "passing"),
    [
        ("10.0.0.0", True), ("10.255.255.255", True), ("9.255.255.255", False), ("11.0.0.0", False),
        ("10.66.0.1", False), ("10.65.255.255", True), ("10.67.0.0", True),
        ("192.0.2.7", True), ("192.0.2.8", False),
        ("2001:db8::1", True), ("2001:db9::1", False), ("2001:DB8:0:0::1", True),
        ("::ffff:10.1.2.3", True), ("::ffff:10.66.1.1", False), ("::ffff:0a01:0203", True),
        ("fe80::1%eth0", True), ("::10.1.2.3", False),
        ("", False), ("unknown", False), ("10.0.0.1, 8.8.8.8", False), ("010.0.0.1", False), ("10.0.1", False), (" 10.0.0.1", False),
    ],
)  # fmt: skip
async def test_allow_and_deny_lists_decide_by_address(make: Any, client_ip: str, passing: bool) -> None:
    config = {"allow": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10"], "deny": ["10.66.0.0/16"]}
    assert await passes(make, config, client_ip) is passing


@pytest.mark.parametrize(
    ("client_ip", "passing"), [("192.0.2.1", False), ("8.8.8.8", True), ("::1", True), ("", False), ("@", False)]
)
async def test_a_deny_list_alone_lets_others_pass_but_nobody_without_an_address(
    make: Any, client_ip: str, passing: bool
) -> None:
    assert await passes(make, {"deny": ["::ffff:192.0.2.0/120"]}, client_ip) is passing


async def test_the_refusal_says_why_or_what_was_configured(make: Any) -> None:
    plain = await make(IpFilter, {"deny": ["0.0.0.0/0"]}).request(head("1.2.3.4"))
    assert plain.status == 403
    assert json.loads(plain.body)["reason"] == "AddressRefused"
    assert json.loads(plain.body)["request_id"] == "r1"
    assert b"1.2.3.4" not in plain.body
    config = {"deny": ["0.0.0.0/0"], "status": 404, "body": "gone", "contentType": "text/html"}
    own = await make(IpFilter, config).request(head("1.2.3.4"))
    assert (own.status, own.body, dict(own.headers)["content-type"]) == (404, b"gone", "text/html")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "shop.example", "", "10.0.0.0/", "2001:db8::/129"])
def test_a_network_that_cannot_be_read_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(PluginConfigError, match=r"config\.deny\[1\]"):
        IpFilter({"allow": [], "deny": ["10.0.0.0/8", text], "status": 403, "body": "", "contentType": "x"})


def test_the_schema_wants_at_least_one_network(refused: Any) -> None:
    assert refused(IpFilter, {})
    assert refused(IpFilter, {"allow": [], "deny": []})
    assert refused(IpFilter, {"allow": ["::/0"], "status": 200})
    assert refused(IpFilter, {"allow": ["::/0"], "contentType": "a\r\nb"})
    assert refused(IpFilter, {"deny": ["::/0"]}) == ""


def test_thousands_of_networks_are_merged_and_found() -> None:
    rng = random.Random(7)
    networks = [ipaddress.IPv4Network((rng.getrandbits(24) << 8, 24)) for _ in range(10_000)]
    found = Networks(networks)
    flat = set(networks)
    for _ in range(1000):
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        assert (address in found) is (ipaddress.IPv4Network((int(address) & ~255, 24)) in flat)
    assert all(each[0] in found and each[255] in found for each in networks)


@given(
    st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), min_size=1, max_size=8),
    st.lists(st.integers(0, 32), min_size=8, max_size=8),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
)
def test_ranges_hold_what_their_networks_hold(bases: list[Any], lengths: list[int], asked: Any) -> None:
    texts = [f"{base}/{length}" for base, length in zip(bases, lengths, strict=False)]
    networks = [parse_network(str(ipaddress.ip_network(text, strict=False)), "x") for text in texts]
    address = parse_address(str(asked))
    assert address is not None
    naive = any(address.version == each.version and address in each for each in networks)
    assert (address in Networks(networks)) is naive


async def test_what_is_remembered_is_bounded(make: Any) -> None:
    kit = make(IpFilter, {"deny": ["10.0.0.0/8"]})
    for value in range(10_000):
        kit.plugin.on_request(head(str(ipaddress.IPv4Address(value))))
    assert len(kit.plugin._verdicts) <= 4096
