"""Which connections and datagrams go where: routes below HTTP."""

from __future__ import annotations

from typing import Literal

import msgspec

from nexus_core.snapshot.routes import WeightedBackend


class StreamRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    """The backends of connections (or of datagrams, by client address) that come to some listeners.

    id: `<kind>/<namespace>/<name>`, kind being `TLSRoute`, `TCPRoute` or `UDPRoute`. source: the object, as `str(ObjectRef)`.
    listeners: `Listener.id`s, sorted. hostnames: of a TLSRoute, names that clients ask for (SNI), lower-case, wildcards as
    `*.example.com`, already intersected with the listeners'; empty for any. backends: by weight; an unresolved one's share is
    refused. created_at: RFC 3339; of routes with equal claims the older one serves, then the smaller id.
    """

    id: str
    source: str
    kind: Literal["TLS", "TCP", "UDP"]
    listeners: tuple[str, ...]
    hostnames: tuple[str, ...] = ()
    backends: tuple[WeightedBackend, ...] = ()
    created_at: str = ""
