"""What the containers of one pod share: the network namespace, the address, the names.

Addresses come from a counter that is kept on disk and never goes back: the kernel keeps a killed pod's namespace for up
to a minute while orphaned connections drain, so a number that is used again at once could meet its old self.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nexus_testbed import netns, places, processes
from nexus_testbed.api import Object

FIRST_NUMBER, LAST_NUMBER = 10, 65_000
DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0"}
"""As container runtimes set it: a program that is not root may listen on port 80."""
SAFE_SYSCTLS = frozenset(
    f"net.ipv4.{name}"
    for name in (
        "ip_local_port_range", "ip_local_reserved_ports", "ip_unprivileged_port_start", "ping_group_range", "tcp_fin_timeout",
        "tcp_keepalive_intvl", "tcp_keepalive_probes", "tcp_keepalive_time", "tcp_rmem", "tcp_syncookies", "tcp_wmem",
    )
)  # fmt: skip
"""What a kubelet lets any pod set, as far as it belongs to the network.
Source: https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/#safe-and-unsafe-sysctls
"""


class SysctlError(Exception):
    """The pod asks for a kernel setting that it may not have, or that the kernel does not take."""


def sysctls_of(pod: Object) -> dict[str, str]:
    """Return the kernel settings of a pod's network, the defaults included. Raises SysctlError for one that is not safe."""
    asked = {s["name"]: s["value"] for s in (pod["spec"].get("securityContext") or {}).get("sysctls") or ()}
    if forbidden := sorted(asked.keys() - SAFE_SYSCTLS):
        raise SysctlError(f"forbidden sysctl: {', '.join(forbidden)} not allowlisted")
    return DEFAULT_SYSCTLS | asked


class Addresses:
    """Hands out pod numbers; a number gives the address, the device and the namespace."""

    def __init__(self, where: places.Places) -> None:
        self._where = where
        self._file = where.data / "next-pod-number"

    def take(self) -> int:
        """Return the next number nobody uses, and remember it on disk before it is used."""
        number = int(self._file.read_text()) if self._file.exists() else FIRST_NUMBER
        while Path("/run/netns", self._where.pod_netns(number)).exists():
            number = self._after(number)
        scratch = self._file.with_suffix(".tmp")
        scratch.write_text(str(self._after(number)))
        os.replace(scratch, self._file)
        return number

    @staticmethod
    def _after(number: int) -> int:
        return number + 1 if number < LAST_NUMBER else FIRST_NUMBER


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The network of one pod and its directory on the node."""

    where: places.Places
    uid: str
    number: int
    _changing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held by the thread that makes or removes the network: it goes on when the task that waits for it is cancelled."""

    @property
    def ip(self) -> str:
        return str(ipaddress.ip_network(places.POD_CIDR)[self.number])

    @property
    def netns(self) -> str:
        return self.where.pod_netns(self.number)

    @property
    def netns_path(self) -> Path:
        return Path("/run/netns", self.netns)

    @property
    def directory(self) -> Path:
        return self.where.pods / self.uid

    def cgroup(self, container: str, run: int) -> Path | None:
        """Return the cgroup of one run of a container, or None without cgroup v2."""
        root = processes.cgroup_of(self.where.id)
        return None if root is None or not root.exists() else root / f"pod-{self.number}-{container}-{run}"

    def _create(self, sysctls: Mapping[str, str]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "number").write_text(str(self.number))
        netns.ip("netns", "add", self.netns)
        netns.ip("-n", self.where.netns, "-batch", "-", batch=(
            f"link add v{self.number} type veth peer name eth0 netns {self.netns}\n"
            f"link set v{self.number} master {netns.BRIDGE} up\n"))  # fmt: skip
        netns.ip("-n", self.netns, "-batch", "-", batch=(
            f"link set lo up\naddr add {self.ip}/16 dev eth0\nlink set eth0 up\n"
            f"route add default via {places.POD_GATEWAY_IP}\n"))  # fmt: skip
        for name, value in sysctls.items():
            path = f"/proc/sys/{name.replace('.', '/')}"  # shows the settings of the namespace of whoever opens it
            argv = netns.argv_in(self.netns_path, ["/bin/sh", "-c", 'echo "$1" > "$0"', path, value])
            done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode:
                raise SysctlError(f"sysctl {name}={value}: {done.stderr.strip()}")

    async def create(self, sysctls: Mapping[str, str]) -> None:
        """Make the namespace with its kernel settings and connect it to the bridge.

        Raises netns.NetnsError, or SysctlError for a value that the kernel refuses.
        """
        await asyncio.to_thread(self._locked, functools.partial(self._create, sysctls))

    def _locked(self, change: Callable[[], None]) -> None:
        with self._changing:
            change()

    def _remove_network(self) -> None:
        for pid in netns.pids_in(self.netns):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The device first: the namespace may live on without its name while connections drain.
        with contextlib.suppress(netns.NetnsError):
            netns.ip("-n", self.where.netns, "link", "del", f"v{self.number}")
        netns.delete([self.netns])

    async def remove_network(self) -> None:
        """Kill what still runs in the namespace and remove it. Idempotent. Raises netns.NetnsError."""
        await asyncio.to_thread(self._locked, self._remove_network)

    async def remove_directory(self) -> None:
        """Remove volumes and pid files. Idempotent."""
        await asyncio.to_thread(shutil.rmtree, self.directory, True)


async def remove_left_overs(where: places.Places) -> None:
    """Remove what a kubelet before us left running: its pods are started again from the API's list."""
    root = processes.cgroup_of(where.id)
    if root is not None and root.exists():
        for path in root.glob("pod-*"):
            await asyncio.to_thread(processes.kill_cgroup, path)
    for directory in where.pods.iterdir():
        number = directory / "number"
        if number.exists():
            box = Sandbox(where, directory.name, int(number.read_text()))
            await box.remove_network()
            await box.remove_directory()
