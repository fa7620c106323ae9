"""Request paths made safe and comparable before anything looks at them.

Escapes of characters that need none are decoded, and those that stay have upper-case digits (RFC 3986 section 6.2.2): servers
take `/%61dmin` for `/admin`, so a route for it does, too. `//` becomes `/`, and dot segments are resolved (section 5.2.4), so that
the route cannot be walked around with `/x/../admin` either. What two parsers could read in two ways is refused with 400 instead
of being guessed: encoded slashes, backslashes, dots and NUL, `..` above the root, `;`-parameters on dot segments.
"""

from __future__ import annotations

import re

# The ordinary path, decided by one regular expression: no escapes, no empty segments, no segment that begins with a dot.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)*/?")
_ALLOWED = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/|\"<>^`{}\[\]-]|%[0-9A-Fa-f]{2})*")
_REFUSED_ESCAPE = re.compile(r"%(?:2[eEfF]|5[cC]|00)")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
"""All but the dot, whose escapes are refused."""


class PathRefused(ValueError):
    """The path is not one that every parser reads alike. The text says what was found, for the client."""


def plain_escapes(path: str) -> str:
    """Return a path with the escapes it needs: `/%61%c3%a9` → `/a%C3%A9`. Escapes of the dot stay."""
    return _ESCAPE.sub(_plain, path) if "%" in path else path


def _plain(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def normalise(path: str) -> str:
    """Return the path that is matched and sent: absolute, no dot segments, no empty segments, no escapes that it does not need.

    path: the target's path as received, without the query. A slash at the end stays. Raises `PathRefused`.
    """
    if _PLAIN.fullmatch(path) and path:
        return path
    if not path.startswith("/"):
        raise PathRefused("The request path does not begin with a slash.")
    if not _ALLOWED.fullmatch(path):
        raise PathRefused("The request path holds a character or a percent-escape that is not allowed there.")
    if _REFUSED_ESCAPE.search(path):
        raise PathRefused(
            "The request path holds an encoded slash, backslash, dot or NUL; send them unencoded or not at all."
        )
    path = plain_escapes(path)
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        bare = segment.partition(";")[0]
        if bare in (".", "..") and segment != bare:
            raise PathRefused("The request path holds a dot segment with parameters.")
        if segment == "..":
            if not kept:
                raise PathRefused("The request path climbs above the root.")
            kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    if not kept:
        return "/"
    slash = "/" if segments[-1] in ("", ".", "..") else ""
    return "/" + "/".join(kept) + slash
