"""Request paths in their normal form."""

from __future__ import annotations

from nexus_core.match.paths import plain_escapes


def exact(path: str) -> str:
    """Return a path as the Snapshot wants it: with the escapes that requests have, too."""
    return plain_escapes(path)


def without_trailing_slash(path: str) -> str:
    """Return a prefix as the Snapshot wants it: no slash at its end, save `/` itself; escapes as in `exact`."""
    return plain_escapes(path).rstrip("/") or "/"


def fault_of(path: str) -> str:
    """Return what is wrong with a path of a match, empty when nothing is. Source: Gateway API, HTTPPathMatch."""
    if not path.startswith("/"):
        return "does not begin with '/'"
    if any(part in path for part in ("//", "/./", "/../", "%2f", "%2F", "#", "?")) or path.endswith(("/..", "/.")):
        return "holds '//', '/./', '/../', '%2f', '#' or '?'"
    return "" if len(path) <= 1024 else "is longer than 1024 characters"
