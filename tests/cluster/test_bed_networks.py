"""What the test cluster's network does beyond HTTP over TCP: datagrams, resets, ports that come and go, static addresses."""

from __future__ import annotations

import contextlib
import socket
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from nexus_testbed import Cluster, components, places

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

ECHO = """
import os, socket, sys, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 5000))
tcp = socket.create_server(("", 5000))
def resets():
    while True:
        taken, _ = tcp.accept()
        taken.recv(100)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        taken.close()
threading.Thread(target=resets, daemon=True).start()
print("up", flush=True)
while True:
    data, client = udp.recvfrom(65535)
    udp.sendto(os.environ["HOSTNAME"].encode() + b" " + data, client)
"""
"""Answers each datagram with the pod's name and the datagram; resets each TCP connection after its first bytes."""
LAST_OF_POOL = "10.200.0.251"


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"net-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    cluster.wait(lambda: cluster.get("serviceaccount", "default", name), "the default ServiceAccount")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def echo(cluster: Cluster, namespace: str) -> str:
    """Two pods of ECHO behind the LoadBalancer Service `echo`, port 53 for both protocols; returns its address."""
    labels = {"app": "echo"}
    container = {"name": "echo", "image": "python:3.11", "args": ["-c", ECHO],
                 "readinessProbe": {"tcpSocket": {"port": 5000}}}  # fmt: skip
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}
    metadata = {"name": "echo", "namespace": namespace}
    cluster.apply([
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
         "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}},
        service("echo", namespace, ports=[port("udp", 53), port("tcp", 53, "TCP")]),
    ])  # fmt: skip
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/echo", "--timeout=20s")
    cluster.wait(lambda: len(cluster.endpoints("echo", namespace)) == 2, "two ready endpoints")
    return cluster.loadbalancer_ip("echo", namespace)


def port(name: str, number: int, protocol: str = "UDP") -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": 5000, "protocol": protocol}


def service(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    body = {"type": "LoadBalancer", "selector": {"app": "echo"}, "ports": [port("udp", 53)], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": body}


def ask(cluster: Cluster, host: str, number: int, sock: socket.socket | None = None) -> str:
    """Send a datagram from inside the cluster and return the name of the pod that answered it, "" if none did."""
    with contextlib.ExitStack() as stack:
        sock = sock or stack.enter_context(cluster.socket(kind=socket.SOCK_DGRAM))
        sock.settimeout(0.5)
        sock.sendto(b"hello", (host, number))
        try:
            data, sender = sock.recvfrom(1000)
        except OSError:
            return ""
        assert sender == (host, number), "the answer comes from the address that was asked"
        name, _, rest = data.decode().partition(" ")
        assert rest == "hello"
        return name


def ingress(cluster: Cluster, name: str, namespace: str) -> list[str]:
    found = cluster.get("service", name, namespace)["status"].get("loadBalancer") or {}
    return [entry["ip"] for entry in found.get("ingress") or ()]


# --- datagrams ---------------------------------------------------------------------------------------------------------------


def test_datagrams_reach_the_endpoints_and_their_answers_come_back(cluster: Cluster, namespace: str, echo: str) -> None:
    """One client stays with one endpoint; many clients reach all; also by the ClusterIP; an endpoint that goes is left."""
    pods = {p["metadata"]["name"] for p in cluster.pods("app=echo", namespace)}
    cluster.wait(lambda: ask(cluster, echo, 53), "the first answer")
    with cluster.socket(kind=socket.SOCK_DGRAM) as one:
        first = ask(cluster, echo, 53, one)
        assert first in pods
        assert {ask(cluster, echo, 53, one) for _ in range(10)} == {first}
        cluster.wait(lambda: {ask(cluster, echo, 53) for _ in range(10)} == pods, "all endpoints are reached")
        cluster_ip = cluster.get("service", "echo", namespace)["spec"]["clusterIP"]
        assert ask(cluster, cluster_ip, 53) in pods
        cluster.kubectl("delete", "pod", "-n", namespace, first, "--wait=false")
        cluster.wait(lambda: ask(cluster, echo, 53, one) not in ("", first), "the client is given another endpoint")


def test_a_reset_is_passed_on_as_a_reset(cluster: Cluster, echo: str) -> None:
    with cluster.connect(echo, 53) as sock:
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_ports_of_a_service_open_and_close_as_it_says(cluster: Cluster, namespace: str, echo: str) -> None:
    cluster.apply(service("moving", namespace, ports=[port("a", 7001), port("t", 7001, "TCP")]))
    address = cluster.loadbalancer_ip("moving", namespace)
    cluster.wait(lambda: ask(cluster, address, 7001), "port 7001 is open")
    cluster.apply(service("moving", namespace, ports=[port("b", 7002), port("a", 7003), port("t", 7001, "TCP")]))
    cluster.wait(lambda: ask(cluster, address, 7002) and ask(cluster, address, 7003), "ports 7002 and 7003 are open")
    assert ask(cluster, address, 7001) == ""
    assert cluster.loadbalancer_ip("moving", namespace) == address
    cluster.connect(address, 7001).close()


# --- static addresses ----------------------------------------------------------------------------------------------------------


def test_a_service_gets_the_address_it_asks_for_or_none(cluster: Cluster, namespace: str, echo: str) -> None:
    """An address out of the pool leaves it without one, and an Event says why; so does one that another Service has."""
    outside = "10.201.0.1"
    cluster.apply(service("static", namespace, loadBalancerIP=outside))

    def events() -> str:
        return cluster.kubectl("get", "events", "-n", namespace, "-o", "jsonpath={.items[*].message}")

    cluster.wait(lambda: f"{outside} is not in {places.LOADBALANCER_CIDR}" in events(), "an Event about the address")
    assert ingress(cluster, "static", namespace) == []
    cluster.apply(service("static", namespace, loadBalancerIP=LAST_OF_POOL))
    cluster.wait(lambda: ingress(cluster, "static", namespace) == [LAST_OF_POOL], "the address it asks for")
    cluster.wait(lambda: ask(cluster, LAST_OF_POOL, 53), "it is served there")

    cluster.apply(service("rival", namespace, loadBalancerIP=LAST_OF_POOL))
    cluster.wait(lambda: f"another Service has {LAST_OF_POOL}" in events(), "an Event about the rival")
    assert ingress(cluster, "rival", namespace) == []
    cluster.apply(service("static", namespace, loadBalancerIP=outside))
    cluster.wait(lambda: ingress(cluster, "rival", namespace) == [LAST_OF_POOL], "the rival gets what has become free")
    cluster.wait(lambda: ingress(cluster, "static", namespace) == [], "the first has given its address up")


# --- pods of the conformance suite -----------------------------------------------------------------------------------------------


def run_pod(cluster: Cluster, name: str, namespace: str, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", **container}], **spec},
    })  # fmt: skip
    cluster.wait(
        lambda: cluster.get("pod", name, namespace)["status"].get("phase") in ("Running", "Succeeded"), f"{name} runs"
    )
    return cluster.get("pod", name, namespace)


def test_kernel_settings_are_those_the_pod_asks_for(cluster: Cluster, namespace: str) -> None:
    """In the pod's own network only; the default lets anybody listen on port 80, an unsafe setting is refused with its name."""
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    show = {"image": "python:3.11", "args": ["-c", f"print(open('{path}').read().strip())"]}
    asked = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1000"}]}
    with open(path) as file:
        outside = file.read()
    for name, security, expected in (("tuned", asked, "1000\n"), ("plain", {}, "0\n")):
        run_pod(cluster, name, namespace, show, restartPolicy="Never", securityContext=security)
        cluster.wait(lambda name=name: cluster.kubectl("logs", "-n", namespace, name), f"{name} has printed it")  # type: ignore[misc]
        assert cluster.kubectl("logs", "-n", namespace, name) == expected
    with open(path) as file:
        assert file.read() == outside

    unsafe = {"sysctls": [{"name": "net.core.somaxconn", "value": "9"}]}
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unsafe", "namespace": namespace},
        "spec": {"containers": [{"name": "main", **show}], "securityContext": unsafe},
    })  # fmt: skip
    cluster.wait(
        lambda: "net.core.somaxconn" in cluster.kubectl("get", "events", "-n", namespace, "-o", "json"),
        "SysctlForbidden",
    )


def test_coredns_answers_with_its_configuration_mounted_over_the_home(cluster: Cluster, namespace: str) -> None:
    """A read-only volume on /root must not hide the program, which may be installed below."""
    corefile = ".:53 {\n  forward . 8.8.8.8\n}\nfoo.bar.com:53 {\n  whoami\n}\n"
    cluster.apply({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dns", "namespace": namespace},
        "data": {"Corefile": corefile},
    })  # fmt: skip
    container = {
        "image": "registry.k8s.io/coredns/coredns:v1.12.2", "args": ["-conf", "/root/Corefile"],
        "volumeMounts": [{"name": "conf", "mountPath": "/root"}],
    }  # fmt: skip
    found = run_pod(cluster, "dns", namespace, container, volumes=[{"name": "conf", "configMap": {"name": "dns"}}])
    with cluster.socket(kind=socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)

        def query(name: str) -> bytes:
            question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0\0\1\0\1"
            sock.sendto(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question, (found["status"]["podIP"], 53))
            try:
                return sock.recv(512)
            except OSError:
                return b""

        answer = cluster.wait(lambda: query("foo.bar.com"), "an answer")
        assert struct.unpack("!HHHHHH", answer[:12]) == (7, 0x8500, 1, 0, 0, 2)
        assert query("elsewhere.example")[3] & 0xF == 2, "SERVFAIL: it has nowhere to forward it to"


def test_the_suites_backend_echoes_and_its_log_can_be_read_since_a_time(cluster: Cluster, namespace: str) -> None:
    components.ensure(["echo-basic"])
    env = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    image = "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3"
    found = run_pod(cluster, "echo-basic", namespace, {"image": image, "env": env})
    url = f"http://{found['status']['podIP']}:3000"

    def get(path: str) -> Any:
        try:
            return cluster.http_get(url + path).json()
        except OSError:
            return None

    answer = cluster.wait(lambda: get("/first"), "the backend answers")
    assert (answer["pod"], answer["namespace"], answer["path"]) == ("echo-basic", namespace, "/first")
    log = f"/api/v1/namespaces/{namespace}/pods/echo-basic/log?timestamps=true"
    seen = cluster.kubectl("get", "--raw", log).splitlines()
    last = seen[-1].split()[0]
    get("/second")
    since = cluster.kubectl("get", "--raw", f"{log}&sinceTime={last[:19]}Z")
    assert "Echoing back request made to /second" in since
