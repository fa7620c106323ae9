"""What stands for a client: the bytes that `ring-hash` and `maglev` find its endpoint by.

Nothing here is verified: a client may send any key and so choose among endpoints, never outside them.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import unquote_plus

from nexus_core.snapshot import HashKey

MAX_TOKEN_BYTES = 8192
"""A longer bearer token is not looked into."""


class Request(Protocol):
    """What keys are made from. query: raw, without `?`. client_ip: as trusted proxies tell it, empty when unknown."""

    @property
    def query(self) -> str: ...
    @property
    def client_ip(self) -> str: ...

    def header(self, name: str) -> str | None:
        """Return the header's value, repeats joined by `,`; None when it is not there. name: lower-case."""
        ...


Key = Callable[[Request], bytes]


def build_key(hash_on: Sequence[HashKey]) -> Key:
    """Return what makes a request's key: the first part that the request has and that is not empty, `b""` when it has none."""
    parts = tuple(_part(each) for each in hash_on)
    if len(parts) == 1:
        return parts[0]

    def key(request: Request) -> bytes:
        for part in parts:
            found = part(request)
            if found:
                return found
        return b""

    return key


def _part(of: HashKey) -> Key:
    name = of.name
    match of.kind:
        case "header":
            lower = name.lower()
            return lambda request: _encode(request.header(lower))
        case "cookie":
            return lambda request: _encode(find_cookie(request.header("cookie") or "", name))
        case "query":
            return lambda request: _encode(_find_parameter(request.query, name))
        case "claim":
            return lambda request: _encode(_find_claim(request.header("authorization") or "", name))
        case "source":
            return lambda request: _encode(request.client_ip)


def _encode(text: str | None) -> bytes:
    # Headers beyond UTF-8 come as surrogates or latin-1; any bytes do, as long as they are the same each time.
    return text.encode("utf-8", "surrogatepass") if text else b""


def find_cookie(header: str, name: str) -> str | None:
    """Return the value of the first cookie of that name in a Cookie header, without quotes around it.

    Source: RFC 6265 section 4.2.1; separators other than `; ` as browsers and servers read them (section 5.4).
    """
    if name not in header:
        return None
    for pair in header.split(";"):
        found, equals, value = pair.partition("=")
        if equals and found.strip() == name:
            return value.strip().removeprefix('"').removesuffix('"')
    return None


def _find_parameter(query: str, name: str) -> str | None:
    for pair in query.split("&") if query else ():
        found, _, value = pair.partition("=")
        if found == name or (("%" in found or "+" in found) and unquote_plus(found) == name):
            # Most values need no decoding, which takes half a microsecond to find out.
            return unquote_plus(value) if "%" in value or "+" in value else value
    return None


def _find_claim(authorization: str, name: str) -> str | None:
    """Return a claim of a bearer JWT (RFC 7519) as text, if it is text, a number or a truth value. None for anything malformed."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or len(token) > MAX_TOKEN_BYTES:
        return None
    parts = token.strip().split(".")
    if len(parts) != 3:
        return None
    payload = parts[1]
    try:
        # RFC 7515 section 2: base64url without padding; with it, it is as plain what was meant.
        padded = payload.rstrip("=") + "=" * (-len(payload.rstrip("=")) % 4)
        claims = json.loads(binascii.a2b_base64(padded.replace("-", "+").replace("_", "/"), strict_mode=True))
    except (ValueError, RecursionError):
        return None
    found = claims.get(name) if isinstance(claims, dict) else None
    if isinstance(found, str):
        return found
    return json.dumps(found) if isinstance(found, (bool, int, float)) else None
