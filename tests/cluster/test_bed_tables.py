"""The pure parts of the test cluster: who gets which address, and what its name servers say."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from nexus_testbed import coredns
from nexus_testbed.kubelet import sandbox
from nexus_testbed.lb import services
from nexus_testbed.lb.services import Binding, Target, World

CLIENT = ("10.244.0.9", 4242)


def balancer(name: str, *, age: int = 0, has: str = "", asks: str = "", ports: tuple[Any, ...] = ()) -> dict[str, Any]:
    """A LoadBalancer Service `ns/name`; the older the smaller its age."""
    spec: dict[str, Any] = {"type": "LoadBalancer", "clusterIPs": ["10.96.1.1"], "ports": list(ports)}
    if asks:
        spec["loadBalancerIP"] = asks
    status = {"loadBalancer": {"ingress": [{"ip": has}]}} if has else {"loadBalancer": {}}
    meta = {"name": name, "namespace": "ns", "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z"}
    return {"metadata": meta, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([balancer("a"), balancer("b")], {"a": "10.200.0.1", "b": "10.200.0.2"}, id="by age and name"),
        pytest.param([balancer("b", age=1), balancer("a", age=2)], {"b": "10.200.0.1", "a": "10.200.0.2"}, id="by age"),
        pytest.param([balancer("a"), balancer("b", has="10.200.0.1")], {"a": "10.200.0.2", "b": "10.200.0.1"}, id="kept"),
        pytest.param([balancer("a", asks="10.200.0.9")], {"a": "10.200.0.9"}, id="asked for"),
        pytest.param([balancer("a", asks="10.201.0.1")], {"a": None}, id="not in the pool"),
        pytest.param(
            [balancer("a", has="10.200.0.1", asks="10.201.0.1"), balancer("b", age=1)], {"a": None, "b": "10.200.0.1"},
            id="a wish that cannot be fulfilled gives up what it has",
        ),
        pytest.param([balancer("a", has="10.200.0.1", asks="10.200.0.9")], {"a": "10.200.0.9"}, id="moved"),
        pytest.param(
            [balancer("a", asks="10.200.0.1"), balancer("b", age=1, has="10.200.0.1")], {"a": None, "b": "10.200.0.1"},
            id="had by a younger one",
        ),
        pytest.param(
            [balancer("a", asks="10.200.0.9"), balancer("b", age=1, asks="10.200.0.9")], {"a": "10.200.0.9", "b": None},
            id="asked for twice",
        ),
        pytest.param([balancer("a"), balancer("b", age=1, asks="10.200.0.1")], {"a": "10.200.0.2", "b": "10.200.0.1"},
                     id="what is asked for is given to nobody else"),
    ],
)  # fmt: skip
def test_addresses(found: list[dict[str, Any]], expected: dict[str, str | None]) -> None:
    world = World()
    services.replace_all(world.services, found)
    assert {name: address for (_, name), address in world.loadbalancers().items()} == expected


def test_an_exhausted_pool_leaves_the_last_without() -> None:
    world = World()
    services.replace_all(world.services, [balancer(f"s{n:03}") for n in range(len(services.POOL) + 1)])
    given = world.loadbalancers()
    assert given.pop(("ns", f"s{len(services.POOL):03}")) is None
    assert sorted(given.values(), key=services.POOL.index) == services.POOL  # type: ignore[arg-type]


def test_each_port_is_listened_on_for_its_protocol() -> None:
    ports = (
        {"name": "d", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP", "nodePort": 30053},
        {"name": "s", "port": 9, "protocol": "SCTP"},
    )  # fmt: skip
    world = World()
    services.replace_all(
        world.services, [balancer("a", ports=ports), balancer("b", asks="10.201.0.1", ports=ports[:1])]
    )
    world.services["ns", "b"]["spec"]["clusterIPs"] = ["None"]
    datagrams, connections = Target(("ns", "a"), "d"), Target(("ns", "a"), "t")
    assert world.listeners() == {
        Binding("UDP", "10.96.1.1", 53): datagrams, Binding("UDP", "10.200.0.1", 53): datagrams,
        Binding("TCP", "10.96.1.1", 53): connections, Binding("TCP", "10.200.0.1", 53): connections,
        Binding("TCP", "10.100.0.1", 30053): connections,
    }  # fmt: skip


# --- kernel settings -----------------------------------------------------------------------------------------------------------


def test_sysctls_of_a_pod() -> None:
    name = "net.ipv4.ip_unprivileged_port_start"

    def pod(*asked: tuple[str, str]) -> dict[str, Any]:
        return {"spec": {"securityContext": {"sysctls": [{"name": n, "value": v} for n, v in asked]}}}

    assert sandbox.sysctls_of({"spec": {}}) == {name: "0"}
    assert sandbox.sysctls_of(pod((name, "80"), ("net.ipv4.tcp_fin_timeout", "5"))) == {
        name: "80", "net.ipv4.tcp_fin_timeout": "5",
    }  # fmt: skip
    with pytest.raises(sandbox.SysctlError, match=r"kernel\.msgmax not allowlisted"):
        sandbox.sysctls_of(pod((name, "80"), ("kernel.msgmax", "1")))


# --- coredns -------------------------------------------------------------------------------------------------------------------

COREFILE = """
.:53 {
    forward . 8.8.8.8 9.9.9.9 {
        max_fails 0   # with a block of its own
    }
    log
}
foo.bar.com foo.org:5353 {
  whoami
}
"""


def query(name: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def test_a_corefile_is_read_as_coredns_reads_it() -> None:
    assert coredns.parse_corefile(COREFILE) == {
        ("", 53): {"forward", "max_fails", "log"}, ("foo.bar.com", 53): {"whoami"}, ("foo.org", 5353): {"whoami"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="no server block"):
        coredns.parse_corefile("whoami\n")


@pytest.mark.parametrize(
    ("name", "port", "code", "records"),
    [
        pytest.param("foo.bar.com", 53, 0, 2, id="whoami"),
        pytest.param("deep.foo.bar.com", 53, 0, 2, id="below it"),
        pytest.param("FOO.bar.com", 53, 0, 2, id="case"),
        pytest.param("xfoo.bar.com", 53, 2, 0, id="another label: cannot be forwarded"),
        pytest.param("", 53, 2, 0, id="the root"),
        pytest.param("foo.bar.com", 5353, 5, 0, id="another port: refused"),
    ],
)
def test_answers_of_coredns(name: str, port: int, code: int, records: int) -> None:
    asked = query(name)
    answer = coredns.build_answer(asked, coredns.parse_corefile(COREFILE), port, CLIENT)
    assert answer is not None
    assert struct.unpack("!HHHHHH", answer[:12]) == (7, 0x8500 | code, 1, 0, 0, records)
    assert answer[12 : len(asked)] == asked[12:]
    if records:
        assert bytes([10, 244, 0, 9]) in answer
        assert struct.pack("!H", CLIENT[1]) in answer


@pytest.mark.parametrize("data", [b"", b"\0" * 11, query("foo.bar.com")[:-3], b"\0\7\x81\x80" + query("a")[4:]])
def test_coredns_says_nothing_to_what_is_no_query(data: bytes) -> None:
    assert coredns.build_answer(data, {("", 53): frozenset({"whoami"})}, 53, CLIENT) is None
