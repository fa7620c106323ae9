"""What a gateway process holds: no libraries that it needed for a second, and no more after many changes than after a few."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")]

WITHIN_S = 45.0
ROUTES = 40
RULES = 16
SWAPS = 8
SECOND_HALF_BYTES = 4_000_000
"""Far above what an allocator's mood costs, and half of what so many changes would leave if each left its Snapshot behind."""

NOT_HERE = (
    "pydantic",
    "yaml",
    "kubernetes",
    "kopf",
    "cryptography",
    "jsonschema",
    "requests",
    "consul",
    "google.protobuf",
    "nexus_core.model",
    "nexus_core.translate",
)
"""What the process of the data plane does without, beside manifests."""

# The command itself, and a file of what it has imported whenever it is asked by a signal.
PROGRAM = """
import pathlib, signal, sys
def tell(number, frame):
    pathlib.Path(sys.argv[1] + ".new").write_text("\\n".join(sorted(sys.modules)))
    pathlib.Path(sys.argv[1] + ".new").rename(sys.argv[1])
signal.signal(signal.SIGUSR1, tell)
from nexus_cli.app import main
main(sys.argv[2:])
"""

GATEWAY = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec: {type: http, backend: {addresses: ["127.0.0.1:9"]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: nexus, listeners: [{name: http, port: 80, protocol: HTTP}]}
"""
PLUGIN = """
apiVersion: nexus.dev/v1alpha1
kind: NexusMarketplace
metadata: {{name: official}}
spec: {{source: {{bundled: true}}, publishers: [{{name: nexus, publicKey: "{key}"}}]}}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusPlugin
metadata: {{name: request-id, namespace: shop}}
spec: {{marketplace: official, version: ">=1,<2"}}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: "route-{number}", namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: ["svc-{number}.example.test"]
  rules:
"""
RULE = """
    - matches: [{{path: {{type: Exact, value: "/{path}/{number}"}}}}]
      backendRefs: [{{group: nexus.dev, kind: NexusService, name: orders}}]
"""


class Process:
    """A gateway over a directory of manifests."""

    def __init__(self, folder: Path, tmp: Path, port: int, admin: int) -> None:
        self.folder = folder
        self._told = tmp / "modules"
        self._admin = tmp / "admin.port"
        self.log = tmp / "log"
        self.url = f"http://127.0.0.1:{admin}"
        environ = {name: text for name, text in os.environ.items() if not name.startswith("NEXUS_")}
        environ["NEXUS_PLUGIN_CACHE"] = str(tmp / "cache" / "plugins")
        argv = (sys.executable, "-c", PROGRAM, str(self._told), "gateway", "-f", str(folder))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                (*argv, "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"),
                env=environ,
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str) -> dict[str, object]:
        """Return what the admin API answers."""
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            found: dict[str, object] = json.loads(response.read())
            return found

    def generation(self) -> int:
        """Return the generation that serves, 0 before the first."""
        try:
            found = self.ask("/readyz")["generation"]
        except OSError:
            return 0
        assert isinstance(found, int)
        return found

    def until(self, happened: Callable[[], bool]) -> None:
        """Return once it is so; fail with the gateway's log otherwise."""
        ends_at = time.monotonic() + WITHIN_S
        while not happened():
            if time.monotonic() > ends_at or self.process.poll() is not None:
                pytest.fail(self.log.read_text()[-4000:])
            time.sleep(0.05)

    def modules(self) -> set[str]:
        """Return what it has imported by now."""
        self._told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        self.until(self._told.exists)
        return set(self._told.read_text().split())

    def children(self) -> set[int]:
        """Return its child processes."""
        found: set[int] = set()
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                found.update(int(pid) for pid in (task / "children").read_text().split())
        return found

    def reader(self) -> int:
        """Return who reads its manifests."""
        (found,) = (
            pid for pid in self.children() if b"sources.translating" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        return found

    def resident_bytes(self) -> int:
        """Return the resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def _write_routes(folder: Path, version: int) -> None:
    rules = "".join(RULE.format(number=number, path=f"v{version}") for number in range(RULES))
    text = "---".join(ROUTE.format(number=number) + rules for number in range(ROUTES))
    (folder / "new.yaml.tmp").write_text(text)
    (folder / "new.yaml.tmp").replace(folder / "routes.yaml")


@pytest.fixture
def running(tmp_path: Path, unused_tcp_port_factory: Callable[[], int]) -> Iterator[Process]:
    folder = tmp_path / "manifests"
    folder.mkdir()
    key = (Path(__file__).parents[3] / "plugins/index/nexus_plugins/publisher.pub").read_text().strip()
    (folder / "gateway.yaml").write_text(GATEWAY)
    (folder / "plugin.yaml").write_text(PLUGIN.format(key=key))
    _write_routes(folder, 0)
    found = Process(folder, tmp_path, unused_tcp_port_factory(), unused_tcp_port_factory())
    try:
        yield found
    finally:
        found.process.terminate()
        try:
            found.process.wait(20)
        except subprocess.TimeoutExpired:
            found.process.kill()
            found.process.wait()


def test_a_process_that_serves_manifests_holds_nothing_that_reads_them(running: Process) -> None:
    running.until(lambda: running.generation() == 1)
    plugins = running.ask("/plugins")["plugins"]
    assert isinstance(plugins, list)
    assert [each["state"] for each in plugins] == ["loaded"], "verified, although nothing here can verify"
    imported = running.modules()
    assert "nexus_gateway.edge.proxy" in imported, "it is the gateway that was asked"
    held = [name for name in NOT_HERE if name in imported]
    assert not held, f"imported by the data plane: {held}"
    # Who read the manifests and who verified the plugin have done their work, and go.
    running.until(lambda: not running.children())


def test_broken_manifests_are_told_and_cost_nothing_that_serves(running: Process) -> None:
    running.until(lambda: running.generation() == 1)
    running.until(lambda: not running.children())
    # To a process that has read none of the files before: what was good is what the gateway remembers.
    (running.folder / "routes.yaml").write_text("kind: [")

    def reasons() -> set[str]:
        problems = running.ask("/problems")["problems"]
        assert isinstance(problems, list)
        return {each["reason"] for each in problems}

    running.until(lambda: reasons() == {"InvalidYaml"})
    assert running.generation() == 1, "the file counts as it last was"
    (running.folder / "gateway.yaml").write_text(GATEWAY.replace("127.0.0.1:9", "127.0.0.1:10"))
    running.until(lambda: running.generation() == 2)
    routes = running.ask("/routes")["routes"]
    assert isinstance(routes, list)
    assert len(routes) == ROUTES * RULES
    _write_routes(running.folder, 1)
    running.until(lambda: running.generation() == 3)
    assert reasons() == set()


def test_a_reader_of_manifests_that_dies_is_started_again(running: Process) -> None:
    running.until(lambda: running.generation() == 1)
    _write_routes(running.folder, 1)
    running.until(lambda: running.generation() == 2)
    reader = running.reader()  # it stays for the next edit
    os.kill(reader, signal.SIGKILL)
    _write_routes(running.folder, 2)
    running.until(lambda: running.generation() == 3)


def test_a_reader_of_manifests_outlives_no_gateway(running: Process) -> None:
    running.until(lambda: running.generation() == 1)
    _write_routes(running.folder, 1)
    running.until(lambda: running.generation() == 2)
    reader = running.reader()
    running.process.kill()
    running.process.wait()
    ends_at = time.monotonic() + WITHIN_S
    while _lives(reader):
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # its new parent may not look after it


def test_many_changes_leave_nothing_behind(running: Process) -> None:
    running.until(lambda: running.generation() == 1)
    sizes = []
    for number in range(1, 2 * SWAPS + 1):
        _write_routes(running.folder, number)
        running.until(lambda: running.generation() == number + 1)  # noqa: B023 - called at once
        running.ask("/config")
        sizes.append(running.resident_bytes())
    assert min(sizes[SWAPS:]) - min(sizes[:SWAPS]) < SECOND_HALF_BYTES
