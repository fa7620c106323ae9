"""Host names: their normal form, and which patterns of a table cover one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_IPV6 = re.compile(r"\[[0-9a-f:.]+\]")
_PORT = re.compile(r"[0-9]{0,5}")

ANY = ""
"""The pattern that covers every host."""


class HostRefused(ValueError):
    """The Host header is not a host with an optional port. The text is for the client."""


def parse(authority: str) -> tuple[str, str]:
    """Return `(host, port)` of a Host header: host lower-case without a dot at its end, port as text, often empty.

    Raises `HostRefused`.
    """
    text = authority.lower()
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        host += bracket
        port = rest[1:] if rest.startswith(":") else ""
        if not _IPV6.fullmatch(host) or (rest and not rest.startswith(":")):
            raise HostRefused("The Host header is not a valid host name.")
    else:
        host, _, port = text.partition(":")
        host = host.removesuffix(".")
        if len(host) > 253 or not _HOST.fullmatch(host):
            raise HostRefused("The Host header is not a valid host name.")
    if not _PORT.fullmatch(port):
        raise HostRefused("The Host header has an invalid port.")
    return host, port


def covers(pattern: str, host: str) -> bool:
    """Return whether the pattern (exact, `*.suffix` for one or more labels, or empty for any) covers the host."""
    if pattern == ANY:
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return pattern == host


def chain(patterns: Collection[str], host: str) -> Iterator[str]:
    """Yield the patterns that cover the host, the most specific first: exact, longest wildcard, any."""
    if host in patterns:
        yield host
    at = host.find(".")
    while at >= 0:
        wildcard = "*" + host[at:]
        if wildcard in patterns:
            yield wildcard
        at = host.find(".", at + 1)
    if host != ANY and ANY in patterns:
        yield ANY
