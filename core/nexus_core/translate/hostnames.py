"""Host names and their wildcards, as the Gateway API defines them. `""` stands for any host."""

from __future__ import annotations

from collections.abc import Iterable


def intersect(listener: str, hostname: str) -> str | None:
    """Return the narrower of two host names when one covers the other, else None."""
    if listener == hostname or not hostname:
        return listener
    if not listener or covers(listener, hostname):
        return hostname
    return listener if covers(hostname, listener) else None


def covers(wide: str, narrow: str) -> bool:
    """Whether a wildcard covers a host name or narrower wildcard: `*.example.com` covers one or more labels more."""
    if not wide.startswith("*."):
        return wide == narrow
    return narrow.removeprefix("*").endswith(wide[1:]) and narrow != wide[2:] and len(narrow) > len(wide[1:])


def intersect_all(listeners: Iterable[str], hostnames: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the host names a route has on some listeners, sorted; `()` for any; None when none is left.

    The gateway picks the listener for a host first, so the union over the listeners says it all.
    """
    found: set[str] = set()
    for listener in listeners:
        for hostname in hostnames or ("",):
            both = intersect(listener, hostname)
            if both is not None:
                found.add(both)
    if not found:
        return None
    return () if "" in found else tuple(sorted(found))
