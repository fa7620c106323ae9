"""Request targets: origin form, absolute form, asterisk; paths in the one form that every reader takes alike.

Escapes of characters that need none are decoded, others get upper-case digits (RFC 3986 section 6.2.2). `//` becomes `/`, dot
segments are resolved (section 5.2.4). What two parsers could read in two ways is refused: encoded slashes, backslashes, dots and
NUL, `..` above the root, parameters on dot segments.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

from nexus_wire.http1.refusals import bad_request

# Possessive, so that a long path with one bad byte at its end is refused in one pass.
_ALLOWED = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/|\"<>^`{}\[\]-]++|%[0-9A-Fa-f]{2})*+")
_REFUSED_ESCAPE = re.compile(rb"%(?:2[eEfF]|5[cC]|00)")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
"""All but the dot, whose escapes are refused."""
_VISIBLE = bytes(range(33, 127))
_LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST = re.compile(rb"(?:(" + _LABEL + rb"(?:\." + _LABEL + rb")*)\.?|(\[[0-9A-Fa-f:.]+\]))(?::([0-9]{0,5}))?")
_MAX_AUTHORITY = 262
"""A name of 255 bytes, a colon and a port."""


def normalise(path: bytes) -> bytes:
    """Return a path as it is matched and sent on. Raises `Refused`."""
    if not path.startswith(b"/"):
        raise bad_request("The request path does not begin with a slash.")
    if not _ALLOWED.fullmatch(path):
        raise bad_request("The request path holds a character or a percent-escape that is not allowed there.")
    if _REFUSED_ESCAPE.search(path):
        raise bad_request(
            "The request path holds an encoded slash, backslash, dot or NUL; send them unencoded or not at all."
        )
    if b"%" in path:
        path = _ESCAPE.sub(_plain, path)
    if b"//" not in path and b"/." not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment[:1] == b".":
            if segment == b"..":
                if not kept:
                    raise bad_request("The request path climbs above the root.")
                kept.pop()
                continue
            if segment == b".":
                continue
            if segment.startswith((b".;", b"..;")):
                raise bad_request("The request path holds a dot segment with parameters.")
        if segment:
            kept.append(segment)
    if not kept:
        return b"/"
    return b"/" + b"/".join(kept) + (b"/" if segments[-1] in (b"", b".", b"..") else b"")


def _plain(escape: re.Match[bytes]) -> bytes:
    byte = int(escape[1], 16)
    return bytes((byte,)) if byte in _UNRESERVED else escape[0].upper()


def split(target: bytes, method: bytes) -> tuple[bytes, bytes, bytes]:
    """Return `(authority, path, query)` of a target; authority is empty but for the absolute form. Raises `Refused`.

    The path is not in normal form yet; `*` has `/`, and nothing else.
    """
    if not target or target.translate(None, _VISIBLE):
        raise bad_request("The request target holds a character that must be percent-encoded.")
    authority = b""
    if not target.startswith(b"/"):
        if target == b"*":
            if method != b"OPTIONS":
                raise bad_request("Only OPTIONS may ask for `*`.")
            return b"", b"/", b""
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise bad_request("The request target is neither a path nor an absolute URL.")
        at = min((i for i in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if i >= 0), default=len(rest))
        authority, target = rest[:at], rest[at:]
        parse_host(authority, "The request target's authority")
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise bad_request("The request target holds a fragment.")
    path, _, query = target.partition(b"?")
    return authority, path, query


def parse_host(value: bytes, what: str = "The Host header") -> tuple[str, int]:
    """Return `(host, port)` of an authority: lower-case without a dot at its end; port 0 for none. Raises `Refused`.

    what: names the value in the refusal. Refused too: an empty host, credentials, IPv6 addresses that are none.
    """
    match = _HOST.fullmatch(value) if len(value) <= _MAX_AUTHORITY else None
    if match is None:
        raise bad_request(f"{what} is not a host with an optional port.")
    name, address, digits = match.groups()
    port = int(digits or 0)
    if port > 65535:
        raise bad_request(f"{what} has an invalid port.")
    if name is not None:
        return name.lower().decode(), port
    try:
        IPv6Address(address[1:-1].decode())
    except AddressValueError:
        raise bad_request(f"{what} is not a host with an optional port.") from None
    return address.lower().decode(), port
