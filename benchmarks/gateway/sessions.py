"""What stands around the proxies during a run, and one started proxy among it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import messages
import routes
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loads import pace
from nexus_marketplace import publishing as publish
from nexus_marketplace.repository import Keys, Repository
from peers import nginx, table
from peers.beds import Bed, Surroundings
from processes import Command, Server, fetch, free_ports

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "nexus-testbed" / "bench"
PROXY_CORE = "0"
LOAD_CORE = "1"
BACKENDS = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything but the proxies. started: monotonic seconds. lacking: features that a proxy was
    asked for and does not have; results of such a run are not kept. varied, repeated: files of requests. pace: the open-loop generator."""

    around: Surroundings
    backend: Server
    collector: Server
    varied: Path
    repeated: Path
    pace: Path
    work: Path
    started: float
    lacking: dict[str, tuple[str, ...]]

    def spans(self) -> dict[str, int]:
        """Return how many spans the collector has, by service."""
        counted: dict[str, int] = json.loads(fetch(self.around.collector, "collector", "/count")[2])
        return counted


@contextlib.contextmanager
def stage(work: Path) -> Iterator[Stage]:
    """Start backend and collector on the load's core and yield the stage; all of it ends with the block."""
    *ports, marketplace, collector = free_ports(2 * BACKENDS + 2)
    backends, calls = tuple(ports[:BACKENDS]), tuple(ports[BACKENDS:])
    certificate, key = _certificate(work)
    public = work / "marketplace"
    plugin_key = _marketplace(public, work / "publisher.pem")
    around = Surroundings(backends, calls, collector, marketplace, plugin_key, certificate, key)
    varied, repeated = work / "varied.requests", work / "repeated.requests"
    messages.write(varied, messages.varied(messages.COUNT))
    messages.write(repeated, [messages.repeated()])
    generator = pace.program(CACHE)
    with contextlib.ExitStack() as stack:
        command = nginx.backend(around.backends, calls, marketplace, public, work / "backend")
        backend = Server("backend", command, LOAD_CORE, work / "backend.log")
        stack.callback(backend.stop)
        sink = Command((sys.executable, str(HERE / "loads" / "collector.py"), str(collector)))
        collecting = Server("collector", sink, LOAD_CORE, work / "collector.log")
        stack.callback(collecting.stop)
        backend.wait_ready(backends[0], routes.HOST, routes.PATH)
        collecting.wait_ready(collector, "collector", "/count")
        yield Stage(around, backend, collecting, varied, repeated, generator, work, time.monotonic(), {})


@dataclass(frozen=True, slots=True)
class Session:
    """One started proxy that passed its check."""

    stage: Stage
    peer: table.Peer
    server: Server
    bed: Bed

    def url(self, *, tls: bool = False, path: str = routes.PATH) -> str:
        """Return the URL of a path on this proxy."""
        return f"https://127.0.0.1:{self.bed.tls_port}{path}" if tls else f"http://127.0.0.1:{self.bed.port}{path}"


@contextlib.contextmanager
def session(
    stage: Stage, name: str, *, tls: bool = False, grpc: bool = False, workers: int = 1, cores: str = PROXY_CORE
) -> Iterator[Session]:
    """Start a proxy, wait for it, check that it does its work, yield it, stop it. grpc: needs TLS. Raises Unusable."""
    port, tls_port, admin_port = free_ports(3)
    peer = table.PEERS[name]
    bed = Bed(stage.around, port, tls_port if tls else 0, admin_port, stage.work / name, workers, grpc)
    server = Server(name, peer.command(bed), cores, stage.work / f"{name}.log")
    try:
        # Each try is a new connection, and may come to another worker: all of them are ready after this many in a row.
        server.wait_ready(port, routes.HOST, routes.PATH, times=1 if workers == 1 else 16 * workers)
        table.check(peer, server, bed)
        if peer.lacks is not None and (missing := tuple(peer.lacks(bed))):
            if name not in stage.lacking:
                print(f"{name} runs without: {', '.join(missing)}", file=sys.stderr)
            stage.lacking[name] = missing
        yield Session(stage, peer, server, bed)
    finally:
        server.stop()


def _certificate(work: Path) -> tuple[Path, Path]:
    """Write a self-signed ECDSA P-256 certificate and its key. Every proxy uses the same."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, routes.DOMAIN)])
    now = datetime.datetime.now(datetime.UTC)
    # The address as well: wrk connects to it, names no host in its handshake, and Caddy then looks for the address.
    names = [x509.DNSName(f"*.{routes.DOMAIN}"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = work / "certificates"
    folder.mkdir()
    certificate_file, key_file = folder / "bench.crt", folder / "bench.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return certificate_file, key_file


def _marketplace(public: Path, key_file: Path) -> str:
    """Sign the two plugins into a marketplace with a key of this run. Returns the public key."""
    key = publish.read_key(key_file, create=True)
    packages = sorted(path.parent for path in (HERE / "plugins").glob("*/plugin.yaml"))
    artefacts = [publish.build_artefact(package, key, "bench") for package in packages]
    files = {artefact.release.url: artefact.data for artefact in artefacts}
    now = datetime.datetime.now(datetime.UTC)
    Repository(public).publish(publish.build_index(artefacts), files, Keys.one(key), now)
    return publish.public_key(key)
