"""Asks a process whether it takes requests: one small HTTP request on a connection of its own, or a connection alone; of what is
reached by UDP the kernel is asked whether somebody has the port."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TIMEOUT_S = 2.0
MAX_BODY = 2048


@dataclass(frozen=True, slots=True)
class Health:
    """ok: it takes requests. definite: it said so itself (an answer), as opposed to no answer in time. why: for people."""

    ok: bool
    definite: bool
    why: str = ""


async def ask_by(probe: Literal["http", "tcp", "udp"], host: str, port: int, path: str) -> Health:
    """Ask in one of the ways there are. path: for `http`. Never raises."""
    if probe == "http":
        return await ask(host, port, path)
    return await ask_tcp(host, port) if probe == "tcp" else ask_udp(port)


async def ask_tcp(host: str, port: int, timeout_s: float = TIMEOUT_S) -> Health:
    """Connect. Whoever takes the connection is healthy. Never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return Health(True, True)
    except TimeoutError:
        return Health(False, False, f"port {port} takes no connection within {timeout_s:g} s")
    except OSError as error:
        return Health(False, False, f"nothing answers on port {port} ({error.strerror or error})")


def ask_udp(port: int) -> Health:
    """Return whether a socket is bound to the UDP port: datagrams of others' protocols would tell no more. Never raises."""
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        if any(int(line.split()[1].rpartition(":")[2], 16) == port for line in lines):
            return Health(True, True)
    return Health(False, False, f"nobody takes datagrams on port {port}")


async def ask(host: str, port: int, path: str, timeout_s: float = TIMEOUT_S) -> Health:
    """GET the path. Any status of 200 to 299 is healthy. Never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=64 * 1024)
            try:
                head = (
                    f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: nexus-up\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode())
                line = await reader.readline()
                parts = line.split(maxsplit=2)
                if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
                    return Health(False, True, f"{path} does not speak HTTP")
                status = int(parts[1])
                if 200 <= status < 300:
                    return Health(True, True)
                return Health(False, True, f"{path} answers {status}: {_said(await reader.read(MAX_BODY))}")
            finally:
                writer.close()
    except TimeoutError:
        return Health(False, False, f"{path} does not answer within {timeout_s:g} s")
    except (OSError, ValueError, asyncio.LimitOverrunError) as error:
        return Health(False, False, f"nothing answers on port {port} ({getattr(error, 'strerror', None) or error})")


def _said(rest: bytes) -> str:
    body = rest.partition(b"\r\n\r\n")[2].decode(errors="replace").strip()
    return " ".join(body.split())[:300]
