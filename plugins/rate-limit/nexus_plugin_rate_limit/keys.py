"""What a limit counts by: the client's address, a header, the route, the consumer, or everything at once."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence

from nexus_sdk.plugin import PluginConfigError, RequestHead

from .tables import Key

CONSUMER = "x-consumer-name"
_LONGEST = 128
"""Characters of a header's value in a key; longer ones are hashed."""
_REMEMBERED = 4096


class Keys:
    """Makes the keys of one limit. parts: `client-ip`, `consumer`, `route`, `host`, `static` or `header:<name>`, one or more.

    A request without a consumer or header that is counted by is counted by its client's address instead: leaving it out must not
    be a way around the limit.
    """

    __slots__ = ("_addresses", "_first", "_ipv6_prefix", "_parts")

    def __init__(self, name: str, parts: Sequence[str], ipv6_prefix: int, where: str) -> None:
        self._first = name
        self._ipv6_prefix = ipv6_prefix
        self._addresses: dict[str, str] = {}
        for index, part in enumerate(parts):
            if part not in ("client-ip", "consumer", "route", "host", "static") and not part.startswith("header:"):
                raise PluginConfigError(
                    f"{where}[{index}]: {part!r} is nothing to count by; client-ip, consumer, route, host, static and header:<name> are."
                )
        self._parts = tuple("header:" + CONSUMER if part == "consumer" else part for part in parts)

    def of(self, request: RequestHead) -> Key:
        """Return a request's key."""
        key = [self._first]
        for part in self._parts:
            if part == "client-ip":
                key.append(self._address(request.client_ip))
            elif part == "route":
                key.append(request.route)
            elif part == "host":
                key.append(request.host)
            elif part != "static":
                value = request.header(part[7:])
                if value:
                    key.append("=" + (value if len(value) <= _LONGEST else _digest(value)))
                else:
                    key.append("-" + self._address(request.client_ip))
        return tuple(key)

    def _address(self, text: str) -> str:
        """Return an address as it is counted: IPv6 by its network, of which a client has billions of addresses."""
        if ":" not in text:
            return text
        known = self._addresses.get(text)
        if known is None:
            try:
                address = ipaddress.IPv6Address(text.partition("%")[0])
            except ValueError:
                return text
            mapped = address.ipv4_mapped
            known = str(mapped or ipaddress.IPv6Network((int(address), self._ipv6_prefix), strict=False))
            if len(self._addresses) >= _REMEMBERED:
                self._addresses.clear()
            self._addresses[text] = known
        return known


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
