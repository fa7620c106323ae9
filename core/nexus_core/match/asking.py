"""A request or connection as people name it (`GET http://shop.example/orders?x=1`), in the normal form that the router takes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nexus_core.match import hosts, paths

STREAMS = ("tls", "tcp", "udp")
SCHEMES = ("http", "https", "grpc", "grpcs", *STREAMS)
_ALIASES = {"ws": "http", "wss": "https", "h2c": "http"}


@dataclass(frozen=True, slots=True)
class Question:
    """method: upper-case. host: lower-case, without port, empty for none. path: normal form. query: raw, without `?`.

    headers: names lower-case, repeats joined by `,`. client_ip: empty when it is not known. scheme: of `SCHEMES`, empty when only a path
    was given. port: of the URL, 0 when it names none. server_name: what a TLS client asks for, empty for none.
    """

    method: str
    host: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    client_ip: str = ""
    scheme: str = ""
    port: int = 0
    server_name: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether it is no request, but a connection or datagrams."""
        return self.scheme in STREAMS

    def header(self, name: str) -> str | None:
        """Return a header's value, None when it is not there. name: lower-case. What hash keys and sessions ask."""
        return self.headers.get(name)


def parse_question(method: str, url: str, lines: Iterable[str] = (), client_ip: str = "") -> Question:
    """Return the question.

    url: absolute, or a path. A `Host` line is the request's host; of TLS the client asks for the URL's then. lines: `Name: value`.
    Raises ValueError (`HostRefused` and `PathRefused` among it) with a text for people, where a gateway would answer 400.
    """
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if not colon or not key:
            raise ValueError(f"header {line[:200]!r} is not 'Name: value'.")
        headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
    authority, target, scheme, port, name = headers.get("host", ""), url, "", 0, ""
    if "://" in url:
        scheme, _, rest = url.partition("://")
        scheme = _ALIASES.get(scheme.lower(), scheme.lower())
        if scheme not in SCHEMES:
            raise ValueError(f"{scheme[:40]!r} is no scheme that a gateway serves; there are {', '.join(SCHEMES)}.")
        at = min((index for index in (rest.find("/"), rest.find("?"), rest.find("#")) if index >= 0), default=len(rest))
        named, target = rest[:at], rest[at:]
        if named:
            name, port = _parse_place(named)
        authority = authority or named
    if scheme in ("grpc", "grpcs"):
        headers.setdefault("content-type", "application/grpc")
    path, _, query = target.partition("#")[0].partition("?")
    host = hosts.parse(authority)[0] if authority else ""
    return Question(
        method.upper(),
        host,
        paths.normalise(path or "/"),
        query,
        headers,
        client_ip,
        scheme,
        port,
        name if not _is_address(name) else "",
    )


def _parse_place(authority: str) -> tuple[str, int]:
    host, port = hosts.parse(authority)
    return host, int(port) if port else 0


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
