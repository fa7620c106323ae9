"""A certificate authority for tests, and TLS listeners on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nexus_wire.clock import Clock
from nexus_wire.tls import TlsListener

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates. pem: its own certificate."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority for tests")])
        own = (
            self._builder(self._name, self.key, NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = own.public_bytes(serialization.Encoding.PEM).decode()

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(NOW - 30 * DAY).not_valid_after(until)
        )  # fmt: skip

    def issue(self, *names: str, until: datetime.datetime = NOW + DAY, passphrase: bytes = b"") -> tuple[bytes, bytes]:
        """Return `(certificate, key)` in PEM for DNS names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        builder = self._builder(x509.Name([]), key, until)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
        locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return (
            builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked),
        )

    def write(self, folder: Path, stem: str, *names: str, until: datetime.datetime = NOW + DAY) -> bytes:
        """Write a pair, return the certificate as the peer will see it (DER)."""
        certificate, key = self.issue(*names, until=until)
        (folder / f"{stem}.crt").write_bytes(certificate)
        (folder / f"{stem}.key").write_bytes(key)
        return ssl.PEM_cert_to_DER_cert(certificate.decode())


@pytest.fixture
def authority() -> Authority:
    return Authority()


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@contextlib.asynccontextmanager
async def _echoing(context: ssl.SSLContext) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    clock = Clock(loop)
    listener = TlsListener(context, clock, lambda protocol: Echo(), lambda failure, peer, words: None)
    server = await loop.create_server(listener, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        clock.stop()


Echoing = Callable[[ssl.SSLContext], contextlib.AbstractAsyncContextManager[int]]


@pytest.fixture
def echoing() -> Echoing:
    """Serve TLS with a context, as the gateway does; yields the port."""
    return _echoing


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test runs on both loops: their transports differ in what they do at the end, and so does their TLS to upstreams."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
