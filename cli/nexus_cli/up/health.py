"""Asks a process whether it takes requests: one small HTTP request on a connection of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

TIMEOUT_S = 2.0
MAX_BODY = 2048


@dataclass(frozen=True, slots=True)
class Health:
    """ok: it takes requests. definite: it said so itself (an answer), as opposed to no answer in time. why: for people."""

    ok: bool
    definite: bool
    why: str = ""


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
