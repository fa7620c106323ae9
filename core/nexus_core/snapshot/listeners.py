"""Where gateways accept connections, and with which certificates."""

from __future__ import annotations

from typing import Literal

import msgspec

Protocol = Literal["HTTP", "HTTPS", "TLS", "TCP", "UDP"]
TlsMode = Literal["terminate", "passthrough"]


class ListenerTls(msgspec.Struct, frozen=True, omit_defaults=True):
    """TLS of an HTTPS or TLS listener.

    mode: `passthrough` sends the connection on as it came, chosen by the name its ClientHello asks for.
    certificates: `Certificate.id`s; of several, the one for the client's key type and name is shown, else the first.
    client_authorities: PEM of those a client's certificate must come from; empty asks for none.
    client_optional: clients without a valid certificate are let in all the same (the Gateway API's AllowInsecureFallback).
    minimum: the oldest version accepted.
    """

    mode: TlsMode = "terminate"
    certificates: tuple[str, ...] = ()
    client_authorities: str = ""
    client_optional: bool = False
    minimum: Literal["1.2", "1.3"] = "1.2"


class Listener(msgspec.Struct, frozen=True, omit_defaults=True):
    """One listener of one Gateway.

    id: `<gateway namespace>/<gateway name>/<listener name>`; of a ListenerSet
    `<gateway namespace>/<gateway name>/<set namespace>/<set name>/<listener name>`.
    source: the object that declares it. port: as declared; the process may bind another (see the gateway's `ports` setting).
    hostname: lower-case; empty for any; `*.example.com` covers one or more labels. tls: of HTTPS and TLS listeners alone.
    """

    id: str
    source: str
    port: int
    hostname: str = ""
    protocol: Protocol = "HTTP"
    tls: ListenerTls | None = None

    @property
    def gateway(self) -> str:
        """`<namespace>/<name>` of its Gateway."""
        return gateway_of(self.id)


class GatewayPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for a Gateway as a whole; there only where it says something.

    id: `<namespace>/<name>`. client_certificate: `Certificate.id` that its data plane shows to upstreams that ask for one.
    """

    id: str
    source: str
    client_certificate: str = ""


class Holder(msgspec.Struct, frozen=True):
    """A Gateway that can open a certificate's private key.

    gateway: `<namespace>/<name>`. key: what the private key is sealed with, sealed with the Gateway's own seal key.
    """

    gateway: str
    key: str


class Certificate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A certificate with its private key.

    id: `Secret/<namespace>/<name>`. chain: PEM, the server's own first. key: PEM, sealed (`nexus_core.certificates.sealing`) about
    this id: a Snapshot never holds a private key in clear. holders: the Gateways that show it, sorted; nobody else can open it.
    """

    id: str
    source: str
    chain: str
    key: str
    holders: tuple[Holder, ...]


def gateway_of(listener_id: str) -> str:
    """Return `<namespace>/<name>` of the Gateway that a listener belongs to."""
    namespace, _, rest = listener_id.partition("/")
    return f"{namespace}/{rest.partition('/')[0]}"
