"""What stands for CoreDNS in a container: answers the zones of its Corefile that have the plugin `whoami`.

    python -m nexus_testbed.coredns -conf /root/Corefile

As much of CoreDNS as the Gateway API's conformance tests ask of it: a name of a `whoami` zone is answered with the client's
address and port (A and SRV among the additional records), every other name is refused, since nothing can be forwarded
from a network without a way out. UDP only. `parse_corefile` and `build_answer` are pure.
Source: https://coredns.io/plugins/whoami/ and https://coredns.io/2017/07/23/corefile-explained/
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from nexus_testbed.lb.dns import IN, NOERROR, A, read_question

SRV, SERVFAIL, REFUSED = 33, 2, 5
_BLOCK = re.compile(r"^\s*([^\s{][^{]*)\{((?:[^{}]|\{[^{}]*\})*)\}", re.MULTILINE)

Zones = Mapping[tuple[str, int], frozenset[str]]
"""(zone in lower case without its final dot, port) → the names of its plugins."""


def parse_corefile(text: str) -> dict[tuple[str, int], frozenset[str]]:
    """Return the server blocks of a Corefile. Raises ValueError if there is none, or for a port that is no number."""
    zones: dict[tuple[str, int], frozenset[str]] = {}
    for block in _BLOCK.finditer(re.sub(r"#.*", "", text)):
        plugins = frozenset(line.split()[0] for line in block[2].splitlines() if line.strip() and line.strip() != "}")
        for key in block[1].replace(",", " ").split():
            name, _, port = key.removeprefix("dns://").partition(":")
            zones[name.lower().strip("."), int(port or 53)] = plugins
    if not zones:
        raise ValueError("the Corefile has no server block `zone:port { plugins }`")
    return zones


def find_plugins(zones: Zones, name: str, port: int) -> frozenset[str] | None:
    """Return the plugins of the longest zone that holds the name; None if there is none on the port."""
    labels = name.split(".") if name else []
    for start in range(len(labels) + 1):
        if (plugins := zones.get((".".join(labels[start:]), port))) is not None:
            return plugins
    return None


def build_answer(query: bytes, zones: Zones, port: int, client: tuple[str, int]) -> bytes | None:
    """Return the answer to one message, None for what deserves none. client: IPv4 address and port it came from."""
    if len(query) < 12 or query[2] & 0x80:
        return None
    try:
        name, _, end = read_question(query)
    except ValueError:
        return None
    plugins = find_plugins(zones, name, port)
    records: list[bytes] = []
    if plugins is None:
        code = REFUSED
    elif "whoami" in plugins:
        code = NOERROR
        address = bytes(int(part) for part in client[0].split("."))
        records.append(struct.pack("!HHHIH", 0xC00C, A, IN, 0, 4) + address)
        # "_udp." and then a pointer to the question's name; priority and weight 0, no target but the root
        data = struct.pack("!HHH", 0, 0, client[1]) + b"\0"
        records.append(b"\x04_udp\xc0\x0c" + struct.pack("!HHIH", SRV, IN, 0, len(data)) + data)
    else:
        code = SERVFAIL
    flags = 0x8400 | (query[2] & 0x01) << 8 | code
    head = query[:2] + struct.pack("!HHHHH", flags, 1, 0, 0, len(records))
    return head + query[12:end] + b"".join(records)


class _Server(asyncio.DatagramProtocol):
    def __init__(self, zones: Zones, port: int) -> None:
        self._zones, self._port = zones, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := build_answer(data, self._zones, self._port, addr)) is not None:
            self._transport.sendto(answer, addr)


async def _serve(zones: Zones) -> None:
    loop = asyncio.get_running_loop()
    for port in sorted({port for _, port in zones}):
        await loop.create_datagram_endpoint(lambda port=port: _Server(zones, port), local_addr=("0.0.0.0", port))  # type: ignore[misc]
        print(
            f"serving {', '.join(sorted(zone or '.' for zone, at in zones if at == port))} on port {port}", flush=True
        )
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A stand-in for CoreDNS: whoami zones only.")
    parser.add_argument("-conf", type=Path, default=Path("Corefile"))
    asyncio.run(_serve(parse_corefile(parser.parse_args().conf.read_text())))
