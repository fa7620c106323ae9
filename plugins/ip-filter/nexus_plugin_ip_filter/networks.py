"""Sets of addresses: thousands of networks, asked in the time of a binary search. Knows nothing of requests."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable

from nexus_sdk.plugin import PluginConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(text: str, where: str) -> Network:
    """Return a network, or the network of one address. Raises PluginConfigError that names `where`.

    IPv4 networks in their IPv6 form (`::ffff:10.0.0.0/104`) are returned as IPv4.
    """
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise PluginConfigError(f"{where}: {error}; write it like 192.0.2.0/24 or 2001:db8::/32.") from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((low, network.prefixlen - 96))
    return network


def parse_address(text: str) -> Address | None:
    """Return an address, None for what is none. IPv4 in its IPv6 form is returned as IPv4; zones (`%eth0`) are dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


class Networks:
    """A set of networks. Overlapping and adjacent ones are merged into ranges; `in` costs one binary search over them."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._ends: dict[int, list[int]] = {4: [], 6: []}
        ranges = sorted(
            (each.version, int(each.network_address), int(each.broadcast_address)) for each in networks
        )  # fmt: skip
        for version, start, end in ranges:
            starts, ends = self._starts[version], self._ends[version]
            if ends and start <= ends[-1] + 1:
                ends[-1] = max(ends[-1], end)
            else:
                starts.append(start)
                ends.append(end)

    def __contains__(self, address: Address) -> bool:
        value = int(address)
        index = bisect_right(self._starts[address.version], value) - 1
        return index >= 0 and value <= self._ends[address.version][index]

    def __bool__(self) -> bool:
        return bool(self._starts[4] or self._starts[6])
