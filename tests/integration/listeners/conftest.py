"""A gateway whose listeners come from its Snapshot, and certificates to put in there."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from nexus_core.certificates.sealing import process_sealer
from nexus_core.snapshot import (
    Certificate,
    Listener,
    ListenerTls,
    Match,
    Route,
    Rule,
    Snapshot,
    StaticAddresses,
    StreamRoute,
    Upstream,
    WeightedBackend,
)
from nexus_gateway.testing import Harness

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Authority:
    """Signs certificates of servers and clients. pem: its own."""

    def __init__(self, name: str = "an authority for tests") -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
        )  # fmt: skip

    def issue(self, *names: str, kind: str = "ec", uris: Sequence[str] = ()) -> tuple[str, bytes]:
        """Return `(certificate, key)` in PEM."""
        key: Any = RSA_KEY if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
        names_: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        for name in names:
            try:
                names_.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                names_.append(x509.DNSName(name))
        builder = self._builder(x509.Name([]), key)
        if names_:
            builder = builder.add_extension(x509.SubjectAlternativeName(names_), critical=True)
        signed = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        return signed, key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def certificate(self, name: str, *names: str, kind: str = "ec") -> Certificate:
        """Return a certificate for a Snapshot. name: of its Secret."""
        chain, key = self.issue(*names, kind=kind)
        about = f"Secret/shop/{name}"
        return Certificate(about, f"Secret shop/{name}", chain, *process_sealer().seal(key, about, ["shop/main"]))

    def write(self, folder: Path, stem: str, *names: str, uris: Sequence[str] = ()) -> tuple[Path, Path]:
        """Write a pair of files."""
        chain, key = self.issue(*names, uris=uris)
        (folder / f"{stem}.crt").write_text(chain)
        (folder / f"{stem}.key").write_bytes(key)
        return folder / f"{stem}.crt", folder / f"{stem}.key"


def listener(name: str, port: int, protocol: Any = "HTTP", hostname: str = "", **tls: Any) -> Listener:
    """A listener of the Gateway shop/main, or of another when the name has slashes."""
    listener_id = name if "/" in name else f"shop/main/{name}"
    ends = ListenerTls(**tls) if protocol in ("HTTPS", "TLS") else None
    return Listener(listener_id, "Gateway shop/main", port, hostname, protocol, ends)


def answers(name: str, *listeners: Listener, hostnames: tuple[str, ...] = ()) -> Route:
    """A route on these listeners that leads to the upstream of its name."""
    rule = Rule(f"HTTPRoute/shop/{name}/0", (Match(),), backends=(WeightedBackend(f"shop/{name}"),))
    return Route(
        f"HTTPRoute/shop/{name}",
        f"HTTPRoute shop/{name}",
        tuple(sorted(each.id for each in listeners)),
        hostnames,
        (rule,),
    )


def passes(kind: Any, name: str, *listeners: Listener, hostnames: tuple[str, ...] = ()) -> StreamRoute:
    """A stream route on these listeners to the upstream of its name."""
    return StreamRoute(
        f"{kind}Route/shop/{name}", f"{kind}Route shop/{name}", kind, tuple(sorted(each.id for each in listeners)), hostnames,
        (WeightedBackend(f"shop/{name}"),),
    )  # fmt: skip


def world(*parts: Any) -> Snapshot:
    """A Snapshot of these parts."""
    found: dict[str, list[Any]] = {}
    kinds = {
        Listener: "listeners", Route: "routes", StreamRoute: "streams", Upstream: "upstreams", Certificate: "certificates",
    }  # fmt: skip
    for part in parts:
        found.setdefault(kinds.get(type(part), "gateways"), []).append(part)
    return Snapshot(**{name: tuple(sorted(each, key=lambda one: one.id)) for name, each in found.items()})


def without(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """The same with other parts."""
    return msgspec.structs.replace(snapshot, **changes)


class Listeners(Harness):
    """A gateway, and clients that know the test's authority."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.authority = Authority()
        self.writers: list[asyncio.StreamWriter] = []
        self.servers: list[asyncio.Server] = []

    async def serve(self, name: str, **fields: Any) -> Upstream:
        """Start an upstream that answers with its name."""

        async def handle(request: Any) -> Any:
            from aiohttp import web

            return web.Response(text=name)

        port = await self.upstreams.start(handle)
        return Upstream(f"shop/{name}", f"NexusService shop/{name}", StaticAddresses((("127.0.0.1", port),)), **fields)

    def bound(self, port: int, *, udp: bool = False) -> int:
        assert self.gateway is not None
        return self.gateway.ports.declared(port, udp=udp)

    def context(self, *, pair: tuple[Path, Path] | None = None, alpn: str = "http/1.1") -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.pem)
        context.check_hostname = False
        context.set_alpn_protocols([alpn])
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    async def connect(
        self, port: int, sni: str | None = None, context: ssl.SSLContext | None = None, *, plain: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a declared port. sni: empty for a client that names none."""
        how: dict[str, Any] = {}
        if not plain:
            how = {"ssl": context or self.context(), "server_hostname": sni or ""}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.bound(port), **how)
        self.writers.append(writer)
        return reader, writer

    async def get(
        self,
        port: int,
        host: str,
        sni: str | None = None,
        context: ssl.SSLContext | None = None,
        *,
        plain: bool = False,
        path: str = "/",
    ) -> tuple[int, str]:
        """GET; return status and body."""
        reader, writer = await self.connect(port, sni if sni is not None else host, context, plain=plain)
        return await ask(reader, writer, host, path)

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        for server in self.servers:
            server.close()
        await super().close()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str = "/"
) -> tuple[int, str]:
    """GET on a connection that stays open; return status and body."""
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), (await reader.readexactly(size)).decode()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Listeners]:
    made = Listeners(tmp_path)
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    try:
        yield made
    finally:
        await made.close()
    assert not errors
