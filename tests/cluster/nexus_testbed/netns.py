"""Network namespaces: the cluster's own, and sockets that live in it while the calling process does not.

The cluster's namespace has no uplink: nothing that runs in it can reach another machine. It holds the node address on
`lo`, a bridge for the pods, and two address ranges (Services and load balancers) that are local as a whole, so that any
address of them can be bound without adding it first (the kernel calls this AnyIP).
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import socket
import subprocess
from pathlib import Path

from nexus_testbed import places

CLONE_NEWNET = 0x40000000
BRIDGE = "cni0"
BRIDGE_MAC = "02:00:0a:f4:00:01"


class NetnsError(RuntimeError):
    """A namespace could not be made, entered or removed (environment's)."""


def ip(*args: str, batch: str | None = None) -> str:
    """Run iproute2's `ip` and return its standard output. Raises NetnsError with the command and its message."""
    try:
        done = subprocess.run(["ip", *args], input=batch, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as err:  # the kernel changes one network at a time
        raise NetnsError(f"ip {' '.join(args)} did not end within {err.timeout:.0f} s") from err
    if done.returncode:
        lines = f" with lines {batch!r}" if batch else ""
        raise NetnsError(f"ip {' '.join(args)}{lines} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def names() -> list[str]:
    """Return the names of all network namespaces of the machine that belong to any test cluster, sorted."""
    try:
        return sorted(name for name in os.listdir("/run/netns") if name.startswith(places.PREFIX))
    except FileNotFoundError:
        return []


def names_of(cluster_id: str) -> list[str]:
    """Return the namespaces of one cluster: its own first, then those of its pods."""
    own = f"{places.PREFIX}{places.parse_id(cluster_id)}"
    return [name for name in names() if name == own or name.startswith(f"{own}-p")]


def create(name: str) -> None:
    """Make the cluster's namespace with its addresses, bridge and local ranges.

    The bridge gets its hardware address here: one without takes the lowest of its ports', and with each change the pods that
    know the old one lose their way to the node, for up to 50 s if two changes follow within a second.
    """
    ip("netns", "add", name)
    ip(
        "-n", name, "-batch", "-",
        batch="\n".join([
            "link set lo up",
            f"addr add {places.NODE_IP}/32 dev lo",
            f"link add {BRIDGE} address {BRIDGE_MAC} type bridge",
            f"addr add {places.POD_GATEWAY_IP}/16 dev {BRIDGE}",
            f"link set {BRIDGE} up",
            f"route add local {places.SERVICE_CIDR} dev lo src {places.NODE_IP}",
            f"route add local {places.LOADBALANCER_CIDR} dev lo src {places.NODE_IP}",
        ]) + "\n",
    )  # fmt: skip


def pids_in(name: str) -> list[int]:
    """Return the processes whose network namespace is `name`; empty if there is no such namespace."""
    path = Path("/run/netns", name)
    if not path.exists():
        return []
    try:
        return [int(pid) for pid in ip("netns", "pids", name).split()]
    except NetnsError:
        if path.exists():
            raise
        return []  # removed since we looked


def delete(names_to_delete: list[str]) -> None:
    """Remove namespaces by name. One that is already gone, or that somebody else removes meanwhile, is no error."""
    while present := set(names()).intersection(names_to_delete):
        try:
            ip("-batch", "-", batch="".join(f"netns del {name}\n" for name in sorted(present)))
        except NetnsError:
            # A batch ends at its first error, which says nothing if another process was faster: then less is there now.
            if present <= set(names()):
                raise


def argv_in(netns_path: Path, argv: list[str]) -> list[str]:
    """Return `argv` prefixed so that it runs in the namespace.

    nsenter rather than `ip netns exec`, which also unshares the mount namespace and remounts /sys.
    """
    return ["nsenter", f"--net={netns_path}", "--", *argv]


class SocketMaker:
    """Makes sockets inside a network namespace for a process that stays outside of it.

    A socket belongs for ever to the namespace its maker was in. One worker thread enters the namespace and does nothing
    but make sockets, so the rest of the process is not affected.
    """

    def __init__(self, netns_path: Path) -> None:
        self._path = netns_path
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "nexus-testbed-netns", initializer=self._enter)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # setns() on a single thread is allowed for network namespaces; os.setns() exists only since Python 3.12.
            if libc.setns(fd, CLONE_NEWNET):
                code = ctypes.get_errno()
                raise NetnsError(f"setns({self._path}): {os.strerror(code)}")
        finally:
            os.close(fd)

    def make(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0) -> socket.socket:
        """Return a new unconnected socket of the namespace. Raises NetnsError if it cannot be entered."""
        try:
            return self._pool.submit(socket.socket, family, kind, proto).result(timeout=10)
        except concurrent.futures.BrokenExecutor as err:
            raise NetnsError(f"cannot enter {self._path}: is the cluster still up?") from err

    def close(self) -> None:
        """End the worker thread. Sockets made before stay usable."""
        self._pool.shutdown(wait=False, cancel_futures=True)
