"""Which ports are free, and who has those that are not."""

from __future__ import annotations

import socket
from pathlib import Path

from nexus_cli.errors import UserError


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Return `(host, port)` of `host:port`, `[v6]:port` or `:port` (this machine only). Raises UserError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise UserError(f"{option} {text!r} is not an address. Write host:port, such as 127.0.0.1:8080.")
    return host.strip("[]") or "127.0.0.1", int(port)


def require_free(host: str, port: int, option: str, *, udp: bool = False) -> None:
    """Raise UserError, naming who has the port, unless it can be bound. Port 0 is always free."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        if not udp:  # of UDP it would let two have the same port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            owner = "" if udp else find_owner(port)
            taken = f" It is used by {owner}." if owner else ""
            raise UserError(
                f"Port {host}:{port} cannot be used ({error.strerror}).{taken} Stop that, or choose another with {option} host:port."
            ) from error


def find_free(host: str = "127.0.0.1", *, udp: bool = False) -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def find_owner(port: int) -> str:
    """Return `process 4711 (nginx -g …)` of who listens on a TCP port; empty when it cannot be told."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            parts = line.split()
            if parts[3] == "0A" and int(parts[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                inodes.add(f"socket:[{parts[9]}]")
    if not inodes:
        return ""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            held = (str(entry.readlink()) for entry in (process / "fd").iterdir())
            if any(target in inodes for target in held):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({command[:80]})"
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return "a process of another user"
