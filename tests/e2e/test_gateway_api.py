"""`nexus up examples/gateway-api`: every kind of listener and route from files, asked by the clients that people have."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

pytestmark = pytest.mark.timeout(120)
Nexus = Callable[..., subprocess.CompletedProcess[str]]


def place(edge: Any, listener: str) -> tuple[str, int]:
    """Return where a listener is, by its id."""
    row = next(row for row in edge.report["listeners"] if row["listener"] == listener)
    parts = urlsplit(row["url"])
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def authority(edge: Any) -> Path:
    found: Path = edge.directory / "backends" / "tls" / "ca.crt"
    return found


def curl(edge: Any, url: str, *options: str) -> tuple[str, str]:
    """Return what curl prints for a URL of one of the example's names, and the version of HTTP that was spoken."""
    program = shutil.which("curl")
    assert program, "curl is not installed: make system"
    parts = urlsplit(url)
    at = ("--cacert", str(authority(edge)), "--resolve", f"{parts.hostname}:{parts.port}:127.0.0.1")
    arguments = [program, "-sS", "--max-time", "20", "-w", "%{stderr}%{http_version}", *at, *options, url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_every_route_is_told_with_where_it_can_be_asked(edge: Any) -> None:
    found = {(row["route"], tuple(row["hostnames"]), row["url"]) for row in edge.report["routes"]}
    urls = {row["listener"]: row["url"] for row in edge.report["listeners"]}
    assert found == {
        (f"{kind}Route edge/{name}", hostnames, urls[f"edge/edge/{listener}"])
        for kind, name, hostnames, listener in (
            ("GRPC", "calls", ("calls.example.test",), "http"), ("GRPC", "calls", ("calls.example.test",), "https"),
            ("HTTP", "web", ("www.example.test",), "http"), ("HTTP", "web", ("www.example.test",), "https"),
            ("HTTP", "team", ("team.example.test",), "edge/team/http"), ("TCP", "lines", (), "lines"),
            ("TLS", "lines", ("lines.example.test",), "secrets"), ("TLS", "vault", ("vault.example.test",), "vault"),
            ("UDP", "names", (), "names"),
        )
    }  # fmt: skip


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")])
def test_http(edge: Any, option: str, version: str) -> None:
    _, port = place(edge, "edge/edge/http")
    said = curl(edge, f"http://www.example.test:{port}/a", option)
    assert said == (f"web got /a for www.example.test:{port}\n", version)


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_https_to_a_backend_whose_certificate_a_policy_looks_at(edge: Any, option: str, version: str) -> None:
    _, port = place(edge, "edge/edge/https")
    said = curl(edge, f"https://www.example.test:{port}/inner/b", option)
    assert said == (f"inner-process got /inner/b for www.example.test:{port} by TLS\n", version)


def test_a_listener_of_a_listener_set(edge: Any) -> None:
    _, port = place(edge, "edge/edge/edge/team/http")
    assert curl(edge, f"http://team.example.test:{port}/c")[0] == f"web got /c for team.example.test:{port}\n"


def test_a_request_for_another_host_than_the_connections_is_misdirected(edge: Any) -> None:
    _, port = place(edge, "edge/edge/https")
    answer, _ = curl(edge, f"https://www.example.test:{port}/", "-H", "host: vault.example.test")
    assert json.loads(answer)["reason"] == "MisdirectedRequest"


def test_tls_is_passed_through_by_the_name_that_a_client_asks_for(edge: Any) -> None:
    """The certificate is the backend's own, at the port where another name's is the gateway's."""
    host, port = place(edge, "edge/edge/vault")
    assert (host, port) == place(edge, "edge/edge/https")
    names = {}
    for name in ("vault.example.test", "www.example.test"):
        context = ssl.create_default_context(cafile=str(authority(edge)))
        with (
            socket.create_connection((host, port), 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            certificate = secure.getpeercert()
            assert certificate
            names[name] = [value for _, value in certificate["subjectAltName"]]
    assert names == {
        "vault.example.test": ["vault.example.test"],
        "www.example.test": ["*.example.test", "example.test"],
    }
    assert "vault got /d" in curl(edge, f"https://vault.example.test:{port}/d")[0]


def test_tls_that_ends_at_the_gateway_goes_on_as_bytes(edge: Any) -> None:
    context = ssl.create_default_context(cafile=str(authority(edge)))
    with (
        socket.create_connection(place(edge, "edge/edge/secrets"), 10) as plain,
        context.wrap_socket(plain, server_hostname="lines.example.test") as secure,
    ):
        secure.sendall(b"hello\n")
        assert secure.recv(100).endswith(b": hello\n")


def test_tcp_is_spread_over_the_replicas(edge: Any) -> None:
    processes = set()
    for _ in range(40):
        with socket.create_connection(place(edge, "edge/edge/lines"), 10) as connection:
            connection.sendall(b"hello\n")
            process, _, text = connection.recv(100).partition(b": ")
            assert text == b"hello\n"
            processes.add(int(process))
    replicas = next(each["replicas"] for each in edge.report["services"] if each["service"] == "edge/lines")
    assert processes == {each["pid"] for each in replicas}


def test_udp(edge: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(10)
        asking.connect(place(edge, "edge/edge/names"))
        asking.send(b"who is it")
        assert asking.recv(100) == b"WHO IS IT"


def test_grpc_as_the_readme_asks_it(edge: Any) -> None:
    """By a shell, with nothing replaced but the port: the output is what the page shows, to the byte."""
    page = (edge.directory / "README.md").read_text()
    command, shown = re.findall(r"```sh\n([^`]*example\.Greeter/Hello[^`]*)```\n```text\n([^`]*)```", page)[0]
    _, port = place(edge, "edge/edge/http")
    assert "127.0.0.1:8080" in command
    done = subprocess.run(
        ["bash", "-c", command.replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
        capture_output=True,
        timeout=40,
        check=False,
    )
    assert (done.stderr, done.stdout) == (b"", shown.encode())


@pytest.mark.parametrize("secure", [False, True])
def test_grpc(edge: Any, secure: bool) -> None:
    """A call and a stream, in clear and over TLS; what no route takes is told in gRPC's own words."""
    host, port = place(edge, "edge/edge/https" if secure else "edge/edge/http")
    options = [("grpc.default_authority", "calls.example.test"), ("grpc.enable_http_proxy", 0)]
    if secure:
        options.append(("grpc.ssl_target_name_override", "calls.example.test"))
        trusted = grpc.ssl_channel_credentials(authority(edge).read_bytes())
        channel = grpc.secure_channel(f"{host}:{port}", trusted, options)
    else:
        channel = grpc.insecure_channel(f"{host}:{port}", options)
    with channel:
        assert channel.unary_unary("/example.Greeter/Hello")(b"Ada", timeout=10) == b"Hello Ada"
        both = channel.stream_stream("/example.Greeter/Hello")(iter([b"Ada", b"Bob"]), timeout=10)
        assert list(both) == [b"Hello Ada", b"Hello Bob"]
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/example.Other/Hello")(b"Ada", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_explain_knows_the_ports_that_are_open(edge: Any, nexus: Nexus) -> None:
    _, port = place(edge, "edge/edge/lines")
    done = nexus("explain", f"tcp://127.0.0.1:{port}", "--admin", edge.admin, "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["route"], found["listener"]["bound"]) == ("TCPRoute/edge/lines", port)
    replicas = next(each["replicas"] for each in edge.report["services"] if each["service"] == "edge/lines")
    assert sorted(f"tcp://{each['endpoint']}" for each in found["upstreams"][0]["endpoints"]) == sorted(
        each["url"] for each in replicas
    )
    _, secure = place(edge, "edge/edge/https")
    done = nexus("explain", f"https://www.example.test:{secure}/inner", "--admin", edge.admin)
    assert "goes to HTTPRoute/edge/web" in done.stdout
    assert "listener  edge/edge/https" in done.stdout


STEP = re.compile(r"^```sh\n(?P<command>(?:(?!```).*\n)*)```\n```text\n(?P<output>(?:(?!```).*\n)*)```\n", re.MULTILINE)


def test_its_page_runs_as_it_says(edge: Any) -> None:
    """With this test's ports in the place of the reader's."""
    ours = {
        "8080": edge.gateway.rpartition(":")[2],
        "8081": edge.admin.rpartition(":")[2],
        "8443": str(place(edge, "edge/edge/https")[1]),
        "8088": str(place(edge, "edge/edge/edge/team/http")[1]),
        "8007": str(place(edge, "edge/edge/lines")[1]),
        "8853": str(place(edge, "edge/edge/secrets")[1]),
        "8053": str(place(edge, "edge/edge/names")[1]),
    }
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    steps = list(STEP.finditer((Path(__file__).parents[2] / "examples" / "gateway-api" / "README.md").read_text()))
    assert len(steps) == 7
    for step in steps:
        command, output = (
            re.sub("|".join(ours), lambda found: ours[found[0]], step[part]) for part in ("command", "output")
        )
        done = subprocess.run(
            command,
            shell=True,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=edge.directory,
            env=environment,
        )
        for line in output.splitlines():
            assert line in done.stdout, f"{command}\n{done.stdout}{done.stderr}"


def test_the_manifests_are_in_order(edge: Any, nexus: Nexus) -> None:
    done = nexus("validate", str(edge.directory))
    assert done.returncode == 0, done.stdout
    assert "no problems" in done.stderr


def test_every_listener_is_shown_with_its_address(edge: Any) -> None:
    found = {row["listener"]: (row["protocol"], row["problem"]) for row in edge.report["listeners"]}
    assert found == {
        "edge/edge/edge/team/http": ("HTTP", ""),
        "edge/edge/http": ("HTTP", ""),
        "edge/edge/https": ("HTTPS", ""),
        "edge/edge/lines": ("TCP", ""),
        "edge/edge/names": ("UDP", ""),
        "edge/edge/secrets": ("TLS", ""),
        "edge/edge/vault": ("TLS", ""),
    }
    assert edge.get("/")[0] == 404
