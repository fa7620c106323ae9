"""`nexus up` as a user runs it: a process of its own, on free ports, over a copy of the example that a test may edit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
SHOP = REPOSITORY / "examples" / "shop"
NEXUS = (sys.executable, "-m", "nexus_cli")
START_S = 40.0
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], T], what: str, within_s: float = 20.0) -> T:
    """Return what `look` finds once it is true; what it raised last is in the failure."""
    deadline, last = time.monotonic() + within_s, None
    while time.monotonic() < deadline:
        try:
            found = look()
            if found:
                return found
        except (OSError, AssertionError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what} ({last})")


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Up:
    """A running `nexus up`. report: what it printed with `-o json`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.gateway = f"http://127.0.0.1:{free_port()}"
        self.admin = f"http://127.0.0.1:{free_port()}"
        self.output = directory.with_name(directory.name + ".stdout")
        self.errors = directory.with_name(directory.name + ".stderr")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXUS_")}
        addresses = ("--listen", self.gateway[7:], "--admin", self.admin[7:])
        with self.output.open("w") as stdout, self.errors.open("w") as stderr:
            self.process = subprocess.Popen(
                [*NEXUS, "-o", "json", "up", str(directory), *addresses, *options],
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        self.report: dict[str, Any] = {}

    def wait_started(self) -> Up:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ValueError):
                self.report = json.loads(self.output.read_text())
                return self
            assert self.process.poll() is None, (
                f"nexus up ended with {self.process.returncode}: {self.errors.read_text()}"
            )
            time.sleep(0.05)
        raise AssertionError(f"nexus up said nothing within {START_S} s: {self.errors.read_text()}")

    def nexus(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_nexus(*arguments, **options)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        return self.call("GET", path, None, **headers)

    def call(self, method: str, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], str]:
        """Return (status, headers, text) through the gateway. Keyword `x_api_key` is header `x-api-key`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if body is not None:
            data, sent["content-type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.gateway + path, data=data, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read().decode()

    def order(self, customer: str, **headers: str) -> dict[str, Any]:
        status, _, text = self.call("POST", "/orders", {"item": "cup", "customer": customer}, **headers)
        assert status == 201, text
        made: dict[str, Any] = json.loads(text)
        return made

    def event_of(self, order_id: str) -> dict[str, Any] | None:
        after, found = 0, None
        while found is None:
            status, _, text = self.get(f"/events?type=order.placed&after={after}&limit=100")
            assert status == 200, text
            page = json.loads(text)
            found = next((e for e in page["events"] if e["event"]["id"] == order_id), None)
            if not page["events"] or page["next"] >= page["head"]:
                break
            after = page["next"]
        return found

    def pids(self) -> list[int]:
        """Return the services' processes, of any state, by the kernel's word and not by the report."""
        return [pid for pid, parent in process_table() if parent == self.process.pid]

    def pid_listening_for(self, service: str) -> int:
        """Return a live process of a service by its environment."""
        wanted = f"NEXUS_SERVICE_NAME={service}".encode()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return pid
        raise AssertionError(f"no process of {service}")

    def stop(self, number: signal.Signals = signal.SIGINT, within_s: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)


def process_table() -> list[tuple[int, int]]:
    """Return (pid, parent) of all processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                found.append((int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])))
    return found


def run_nexus(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXUS_")}
    return subprocess.run(
        [*NEXUS, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False, **options
    )


@pytest.fixture(scope="module")
def module_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The shop, up, for all tests of a module: they leave it as they found it."""
    running = Up(copy_shop(tmp_path_factory.mktemp("up")))
    try:
        yield running.wait_started()
    finally:
        running.stop()


@pytest.fixture
def shop(module_shop: Up) -> Up:
    return module_shop


@pytest.fixture
def shop_copy(tmp_path: Path) -> Path:
    return copy_shop(tmp_path)


def copy_shop(into: Path) -> Path:
    return Path(
        shutil.copytree(SHOP, into / "shop", ignore=lambda _, names: [n for n in names if not n.endswith(".yaml")])
    )


@pytest.fixture
def start() -> Iterator[Callable[..., Up]]:
    """Start `nexus up` with any options; what still runs at the end is stopped."""
    started: list[Up] = []

    def make(directory: Path, *options: str) -> Up:
        started.append(Up(directory, *options))
        return started[-1]

    yield make
    for running in started:
        if running.process.poll() is None:
            running.stop(signal.SIGTERM)


@pytest.fixture
def nexus() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command to its end."""
    return run_nexus


@pytest.fixture
def free_ports() -> Callable[[int], list[str]]:
    """Return that many ports that were free a moment ago."""
    return lambda count: [str(free_port()) for _ in range(count)]


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    return eventually


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


EDGE = REPOSITORY / "examples" / "gateway-api"
EDGE_PORTS = ("port: 7,", "port: 53,", "port: 853", "port: 8088,", "port: 9443")
"""As the example declares them, in the order in which tests get others in their place."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The example of the Gateway API, up, on ports that were free a moment ago; for all tests of a module."""
    directory = Path(shutil.copytree(EDGE, tmp_path_factory.mktemp("up") / "gateway-api"))
    ports = {text: re.sub(r"\d+", str(free_port()), text) for text in EDGE_PORTS}
    for path in directory.glob("*.yaml"):
        text = path.read_text()
        for theirs, ours in ports.items():
            text = re.sub(rf"{theirs}(?!\d)", ours, text)
        path.write_text(text)
    running = Up(directory, "--tls-listen", f"127.0.0.1:{free_port()}")
    try:
        yield running.wait_started()
    finally:
        running.stop()
