"""Started programs, each on its cores: their CPU time, memory, readiness and end. Linux only: it reads `/proc`."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_FILES = 16384
"""Open files that every started program may have: the idle scenario holds thousands of connections."""


class Unusable(RuntimeError):
    """A run cannot go on. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one program. env: added to a small, clean environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Server:
    """A started program. Its whole process group ends with it."""

    def __init__(self, name: str, command: Command, cores: str, log: Path) -> None:
        """cores: as `taskset -c` takes them, `0` or `0,1`. log: takes both outputs; its folder is made."""
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        home = os.environ.get("HOME", "/")
        environment = {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8", **command.env}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                ("taskset", "-c", cores, *command.argv),
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """Return the process and its descendants."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += [int(child) for child in children.read_text().split()]
        return found

    def cpu_s(self) -> float:
        """Return the user and system time of the whole tree so far, in seconds: of those of it that have ended, too."""
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total += sum(map(int, fields[11:15]))
        return total / TICKS_PER_S

    def rss_bytes(self) -> int:
        """Return the resident memory of the whole tree. Pages that two processes share are counted once for each."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids()) * PAGE_BYTES

    def settle(self, timeout_s: float = 15.0) -> None:
        """Return once what it needed only to start is gone: its processes and their memory stay the same for a second."""
        deadline = time.monotonic() + timeout_s
        seen, since = (0, 0), time.monotonic()
        while time.monotonic() < deadline:
            now = (len(self.pids()), round(self.rss_bytes() / 1e6))
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > 1:
                return
            time.sleep(0.1)

    def wait_ready(self, port: int, host: str, path: str, *, times: int = 1, timeout_s: float = 120.0) -> None:
        """Return once GET `path` is answered with 200 so many times in a row. Raises Unusable with the program's last words otherwise."""
        deadline = time.monotonic() + timeout_s
        seen, good = "no connection", 0
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                status, _, _ = fetch(port, host, path)
            except (OSError, http.client.HTTPException) as error:
                seen = str(error)
            else:
                good = good + 1 if status == 200 else 0
                if good == times:
                    return
                if good:
                    continue
                seen = f"status {status}"
            good = 0
            time.sleep(0.05)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
        raise Unusable(f"{self.name} does not answer {path} on port {port} ({seen}). Its last words:\n{tail}")

    def stop(self) -> None:
        """End it and all that it started: asked first, killed after 15 s."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def fetch(
    port: int,
    host: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 2.0,
    tls: bool = False,
) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers (names lower-case) and body of one GET. Raises OSError or http.client.HTTPException.

    tls: as wrk does it, without a name in the handshake and without looking at the certificate.
    """
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=ssl._create_unverified_context())
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    )
    try:
        connection.request("GET", path, headers={"Host": host, **(headers or {})})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on at the moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def allow_many_files() -> None:
    """Raise the limit of open files, which started programs inherit. Raises Unusable when the machine forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= MAX_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < MAX_FILES:
        raise Unusable(f"A run needs {MAX_FILES} open files, and `ulimit -Hn` is {hard}. Raise it.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, hard))


def busy_ticks(core: int) -> int:
    """Return the ticks that a core has spent on anything but waiting, interrupts and other guests of the host included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *numbers = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, numbers[:8])
            return user + nice + system + irq + softirq + steal
    raise Unusable(f"This machine has no core {core}; a run needs two.")
