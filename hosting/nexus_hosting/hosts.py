"""Which host an address leads to, and whether a plugin may go there. What is judged is what is dialled: both come from one reading."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^/?#@]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?#].*)?",
    re.DOTALL,
)
_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
DEFAULT_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


@dataclass(frozen=True, slots=True)
class Target:
    """Where an address leads. host: lower-case, without a trailing dot; IP addresses in their one normal form. user: `name:password`,
    still percent-encoded, None without. rest: from the path on, as it was written.
    """

    scheme: str
    host: str
    port: int
    rest: str = ""
    user: str | None = None

    @property
    def authority(self) -> str:
        """`host:port`, as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(url: str) -> Target:
    """Return where a URL leads. Raises ValueError: what is wrong with it, as the end of a sentence.

    Stricter than URLs are: names in ASCII alone, no blanks or backslashes, no numbers that only some readers take for addresses. What two
    readers could take for two hosts is refused.
    """
    if _UNFIT.search(url):
        raise ValueError("it holds a blank, a backslash or a control character")
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("it is not scheme://host[:port]/path with the host in ASCII (write other names in Punycode)")
    scheme = found["scheme"].lower()
    host = parse_host(found["host"])
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS.get(scheme, 0)
    if not 0 < port < 65536:
        raise ValueError("its port is not between 1 and 65535")
    return Target(scheme, host, port, found["rest"] or "", found["user"])


def parse_host(text: str) -> str:
    """Return a host in its one normal form. Raises ValueError."""
    host = text.lower()
    if host.startswith("["):
        return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # `127.1`, `0x7f000001` and `2130706433` are 127.0.0.1 for resolvers, and names for everybody else.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise ValueError(f"{text!r} is a number that is not written as an address, such as 127.0.0.1") from error
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is not the name of a host")
    return host


def is_permitted(target: Target, patterns: Iterable[str], config: Mapping[str, Any]) -> bool:
    """Return whether one of the patterns of `Permissions.network` has the target's host. config: for `config:<path>`."""
    return any(_fits(target, pattern, config) for pattern in patterns)


def _fits(target: Target, pattern: str, config: Mapping[str, Any]) -> bool:
    if pattern.startswith("config:"):
        return any(_leads_there(target, value) for value in _values_at(config, pattern.removeprefix("config:")))
    if pattern.startswith("*."):
        suffix, port = _split(pattern[1:])
        named = ":" not in target.host and not _NUMBER.fullmatch(target.host.rpartition(".")[2])
        return named and target.host.endswith(suffix.lower()) and port in (None, target.port)
    return _is_host(target, pattern)


def _is_host(target: Target, pattern: str) -> bool:
    host, port = _split(pattern)
    try:
        # An IPv6 address alone may come without its brackets.
        normal = parse_host(f"[{host}]" if ":" in host and not host.startswith("[") else host)
    except ValueError:
        return False  # a pattern that names no host permits none
    return normal == target.host and port in (None, target.port)


def _split(pattern: str) -> tuple[str, int | None]:
    host, colon, port = pattern.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in host or host.endswith("]")):
        return host, int(port)
    return pattern, None


def _leads_there(target: Target, value: object) -> bool:
    if not isinstance(value, str):
        return False
    if "://" not in value:
        return _is_host(target, value)
    try:
        named = parse_target(value)
    except ValueError:
        return False
    return (named.host, named.port) == (target.host, target.port)


def _values_at(config: Any, path: str) -> list[Any]:
    """Return what the configuration has at a dotted path; of lists on the way, each element's."""
    found = [config]
    for part in path.split("."):
        found = [
            each[part]
            for value in found
            for each in (value if isinstance(value, list) else [value])
            if isinstance(each, dict) and part in each
        ]
    return [each for value in found for each in (value if isinstance(value, list) else [value])]
