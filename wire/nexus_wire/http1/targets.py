"""Request targets: origin form, absolute form, asterisk; paths in the one form that every reader takes alike.

Nothing is decoded. What two parsers could read in two ways is refused: encoded slashes, backslashes, dots and NUL, `..` above
the root, parameters on dot segments. `//` becomes `/`, dot segments are resolved (RFC 3986 section 5.2.4).
"""

from __future__ import annotations

import re

from nexus_wire.http1.refusals import bad_request

_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)*/?")
_ALLOWED = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/|\"<>^`{}\[\]-]|%[0-9A-Fa-f]{2})*")
_REFUSED_ESCAPE = re.compile(rb"%(?:2[eEfF]|5[cC]|00)")
_PRINTABLE = bytes(range(33, 127))
_LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST = re.compile(rb"(?:(" + _LABEL + rb"(?:\." + _LABEL + rb")*)\.?|(\[[0-9A-Fa-f:.]+\]))(?::([0-9]{0,5}))?")


def normalise(path: bytes) -> bytes:
    """Return a path as it is matched and sent on. Raises `Refused`."""
    if path and _PLAIN.fullmatch(path):
        return path
    if not path.startswith(b"/"):
        raise bad_request("The request path does not begin with a slash.")
    if not _ALLOWED.fullmatch(path):
        raise bad_request("The request path holds a character or a percent-escape that is not allowed there.")
    if _REFUSED_ESCAPE.search(path):
        raise bad_request(
            "The request path holds an encoded slash, backslash, dot or NUL; send them unencoded or not at all."
        )
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        bare = segment.partition(b";")[0]
        if bare in (b".", b"..") and segment != bare:
            raise bad_request("The request path holds a dot segment with parameters.")
        if segment == b"..":
            if not kept:
                raise bad_request("The request path climbs above the root.")
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    if not kept:
        return b"/"
    return b"/" + b"/".join(kept) + (b"/" if segments[-1] in (b"", b".", b"..") else b"")


def split(target: bytes, method: bytes) -> tuple[bytes, bytes, bytes]:
    """Return `(authority, path, query)` of a target; authority is empty but for the absolute form. Raises `Refused`."""
    if not target or target.translate(None, _PRINTABLE):
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
        at = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        authority, target = rest[:at], rest[at:]
        if not _HOST.fullmatch(authority):
            raise bad_request("The request target's authority is not a host with an optional port.")
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise bad_request("The request target holds a fragment.")
    path, _, query = target.partition(b"?")
    return authority, path, query


def parse_host(value: bytes) -> tuple[str, int]:
    """Return `(host, port)` of a Host header: lower-case without a dot at its end; port 0 for none. Raises `Refused`."""
    match = _HOST.fullmatch(value)
    if match is None or len(value) > 262:
        raise bad_request("The Host header is not a valid host name.")
    port = int(match[3] or 0)
    if port > 65535:
        raise bad_request("The Host header has an invalid port.")
    return (match[1] or match[2]).lower().decode(), port
