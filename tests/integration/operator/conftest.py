"""A real Consul agent on the loopback address, which tests may kill, restart and wipe."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))

from nexus_operator.edge.consul import ConsulApi  # noqa: E402 - after the line above
from nexus_testbed import components  # noqa: E402


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class ConsulProcess:
    """One single-server Consul. start() returns once it has a leader."""

    def __init__(self, program: Path, directory: Path, token: str = "") -> None:
        """token: of its management, where it is to refuse everybody else; empty for one without ACLs."""
        self._token = token
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = free_ports(3)
        self.url = f"http://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        http, server, serf = self._ports
        config = (
            f"ports {{ http = {http} server = {server} serf_lan = {serf} serf_wan = -1 dns = -1 grpc = -1 }} "
            "performance { raft_multiplier = 1 } disable_update_check = true leave_on_terminate = false"
        )
        if self._token:
            config += (
                ' acl { enabled = true default_policy = "deny" tokens '
                f'{{ initial_management = "{self._token}" agent = "{self._token}" }} }}'
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory.parent / "consul.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._program), "agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1",
                    f"-data-dir={self._directory}", "-node=test", "-disable-host-node-id", f"-hcl={config}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        self._wait_for_leader()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def wipe(self) -> None:
        """Lose all data; only while it does not run."""
        assert self._process is None
        shutil.rmtree(self._directory)

    def stop(self) -> None:
        if self._process is not None:
            self.kill()

    def ask(self, path: str, body: Any = None) -> Any:
        """Return the answer to a GET, or to a PUT of the body as JSON."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url}{path}", data, method="GET" if data is None else "PUT")
        if self._token:
            asked.add_header("X-Consul-Token", self._token)
        with urllib.request.urlopen(asked, timeout=5) as reply:
            return json.load(reply)

    def _wait_for_leader(self) -> None:
        for _ in range(600):
            assert self._process is not None
            assert self._process.poll() is None, (self._directory.parent / "consul.log").read_text()[-3000:]
            try:
                if self.ask("/v1/status/leader") and self.ask("/v1/catalog/nodes"):
                    return
            except (urllib.error.URLError, OSError, ValueError):
                pass
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("Consul has no leader after 30 s")


@pytest.fixture(scope="session")
def consul_program() -> Path:
    return components.ensure(["consul"])["consul"]


@pytest.fixture(scope="session")
def shared_consul(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulProcess]:
    """One agent for all tests that leave it running; each uses a prefix and a node of its own."""
    process = ConsulProcess(consul_program, tmp_path_factory.mktemp("consul") / "data")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def own_consul(consul_program: Path, tmp_path: Path) -> Iterator[ConsulProcess]:
    """An agent of the test's own, to be killed and wiped."""
    process = ConsulProcess(consul_program, tmp_path / "data")
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def consul(shared_consul: ConsulProcess) -> AsyncIterator[ConsulApi]:
    api = ConsulApi(shared_consul.url)
    yield api
    await api.close()


@pytest.fixture
async def fragile_consul(own_consul: ConsulProcess) -> AsyncIterator[ConsulApi]:
    api = ConsulApi(own_consul.url)
    yield api
    await api.close()


async def restart(process: ConsulProcess) -> None:
    await asyncio.to_thread(process.start)
