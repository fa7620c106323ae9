"""A request as people name it (`GET http://shop.example/orders?x=1`), in the normal form that the router takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nexus_core.match import hosts, paths


@dataclass(frozen=True, slots=True)
class Question:
    """method: upper-case. host: lower-case, without port, empty for none. path: normal form. query: raw, without `?`.

    headers: names lower-case, repeats joined by `,`. client_ip: empty when it is not known.
    """

    method: str
    host: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    client_ip: str = ""

    def header(self, name: str) -> str | None:
        """Return a header's value, None when it is not there. name: lower-case. What hash keys and sessions ask."""
        return self.headers.get(name)


def parse_question(method: str, url: str, lines: Iterable[str] = (), client_ip: str = "") -> Question:
    """Return the question.

    url: absolute, or a path; then the host is that of a `Host` line, if there is one. lines: `Name: value`.
    Raises ValueError (`HostRefused` and `PathRefused` among it) with a text for people, where a gateway would answer 400.
    """
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if not colon or not key:
            raise ValueError(f"header {line[:200]!r} is not 'Name: value'.")
        headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
    authority, target = headers.get("host", ""), url
    if "://" in url:
        rest = url.partition("://")[2]
        at = min((index for index in (rest.find("/"), rest.find("?"), rest.find("#")) if index >= 0), default=len(rest))
        authority, target = rest[:at], rest[at:]
    path, _, query = target.partition("#")[0].partition("?")
    host = hosts.parse(authority)[0] if authority else ""
    return Question(method.upper(), host, paths.normalise(path or "/"), query, headers, client_ip)
