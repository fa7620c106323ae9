"""What the process that hosts plugins lends to them. A process without, say, Consul leaves that out: its plugins are told so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_core.snapshot.plugins import SealedValue

if TYPE_CHECKING:
    from ssl import SSLContext

    from nexus_hosting.running import Running

PYPI = "https://pypi.org/simple/"


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a call of a NexusService goes. authority: `host:port`, with brackets around IPv6. tls: None for a service that speaks in
    clear; it may block for some milliseconds, and raises `CallFailed` where its trust cannot be used. server_name: to ask for and to
    verify; empty: the host of the call's own Host header, else the address.
    """

    authority: str
    tls: Callable[[], SSLContext] | None = None
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Means:
    """Everything is optional.

    workers: processes of this gateway. endpoint: of a NexusService `<namespace>/<name>`, a live one, None when it has
    none; raises `CallFailed` for a service that plugins cannot call.
    consul: a key's value, None when there is none. artefact: bytes by their SHA-256 from another place than the network, None when it
    does not have them; asked after the cache. unseal: opens a secret that is sealed about the second argument; called in a thread,
    raises for one that is not for this process. pypi: an index with PEP 503 or PEP 691 pages, for wheels whose release has no address.
    over_memory: told of a plugin, on its event loop, when the bytes that are reachable from it are over its budget; again with each
    measurement that finds it so.
    """

    workers: int = 1
    endpoint: Callable[[str], Reached | None] | None = None
    consul: Callable[[str], Awaitable[bytes | None]] | None = None
    artefact: Callable[[str], Awaitable[bytes | None]] | None = None
    unseal: Callable[[SealedValue, str], bytes] | None = None
    pypi: str = PYPI
    over_memory: Callable[[Running, int], None] | None = None
