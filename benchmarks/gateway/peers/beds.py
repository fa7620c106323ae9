"""What every proxy is given: ports, backends, certificate, collector. One `Bed` is one start of one proxy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from processes import Unusable


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all proxies of a run share.

    backends: ports that answer alike. calls: ports that answer gRPC calls, in clear. collector: OTLP/HTTP port. marketplace: port that
    serves the two plugins' index. certificate, key: PEM files for `*.bench.example`, alone in a folder.
    """

    backends: tuple[int, ...]
    calls: tuple[int, ...]
    collector: int
    marketplace: int
    plugin_key: str
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Bed:
    """Where one proxy listens on 127.0.0.1, and a folder of its own. tls_port: 0 for no TLS. workers: processes or threads.

    grpc: it passes calls for `routes.CALLS_HOST` on to the surroundings' `calls`, over HTTP/2.
    """

    around: Surroundings
    port: int
    tls_port: int
    admin_port: int
    work: Path
    workers: int = 1
    grpc: bool = False


def find_program(name: str) -> str:
    """Return the path of a packaged program. Raises Unusable with the remedy."""
    for folder in ("/usr/sbin", "/usr/bin", "/usr/local/bin"):
        if (path := Path(folder) / name).exists():
            return str(path)
    found = shutil.which(name)
    if not found:
        raise Unusable(f"{name} is not installed. Run: scripts/debian.sh bench")
    return found
