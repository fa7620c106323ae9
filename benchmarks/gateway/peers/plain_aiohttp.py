"""The plainest aiohttp proxy, `aiohttp_proxy.py`: what Python costs without an edge of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from processes import Command

from peers.beds import Bed


def plain(bed: Bed) -> Command:
    """Return the proxy to the first backend; one process whatever the workers."""
    program = Path(__file__).with_name("aiohttp_proxy.py")
    argv = [sys.executable, str(program), str(bed.port), str(bed.around.backends[0])]
    if bed.tls_port:
        argv += [str(bed.tls_port), str(bed.around.certificate), str(bed.around.key)]
    return Command(tuple(argv))
