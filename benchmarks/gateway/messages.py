"""Requests that differ in path, cookie, token and ids, generated once before a run, as raw bytes.

Enough of them that no cache of a proxy can hold them: by the time one comes again, a hundred thousand others came between.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

import routes

COUNT = 120_000
SEPARATOR = b"\0"
"""Between requests in a file; a request holds none."""
_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
    "shop-app/4.2 (iPhone; iOS 18.5)",
)


def varied(count: int, seed: int = 7) -> list[bytes]:
    """Return different requests: nine in ten GET, spread over all hosts and routes, each with twelve headers.

    Unique in each: path or query, Cookie, Authorization (the size of a small JWT), X-Request-Id, X-Device-Id, Referer.
    """
    rng = random.Random(seed)
    return [_one(rng, number) for number in range(count)]


def _one(rng: random.Random, number: int) -> bytes:
    host = routes.host_name(rng.randrange(routes.HOSTS))
    route = rng.choice(routes.ROUTES)
    unique = f"{rng.getrandbits(64):016x}"
    target = f"{route.path}?id={unique}" if route.kind == "exact" else f"{route.path}/{unique}/{number}"
    lines = [
        f"{route.method or 'GET'} {target} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: {rng.choice(_AGENTS)}",
        "Accept: application/json, text/plain;q=0.8, */*;q=0.1",
        "Accept-Encoding: gzip, br",
        "Accept-Language: en-GB,en;q=0.7",
        f"Authorization: Bearer {_token(rng, number)}",
        f"Cookie: session={rng.getrandbits(128):032x}; seen={rng.getrandbits(40):010x}; theme=dark",
        f"Referer: https://{host}/catalog/{unique}",
        f"X-Request-Id: {rng.getrandbits(128):032x}",
        f"X-Device-Id: {rng.getrandbits(96):024x}",
        f"X-Tenant: tenant-{rng.randrange(1000)}",
    ]
    lines.append(f"{route.header[0]}: {route.header[1]}" if route.header else "X-Client-Version: 4.2.1")
    if route.method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode()


def _token(rng: random.Random, number: int) -> str:
    claims = base64.urlsafe_b64encode(f'{{"sub":"user-{number}","scope":"shop","exp":1999999999}}'.encode())
    signature = base64.urlsafe_b64encode(rng.randbytes(32))
    return f"eyJhbGciOiJIUzI1NiJ9.{claims.decode().rstrip('=')}.{signature.decode().rstrip('=')}"


def repeated() -> bytes:
    """Return the one small request that a steady API client sends again and again."""
    return f"GET {routes.PATH} HTTP/1.1\r\nHost: {routes.HOST}\r\n\r\n".encode()


def write(path: Path, wanted: list[bytes]) -> None:
    """Write requests where a load generator reads them."""
    path.write_bytes(SEPARATOR.join(wanted))
