"""Certificates as they lie in a directory: which pairs there are, what they are for, what is wrong with one.

A directory holds pairs `NAME.crt`/`NAME.key` (or `NAME.pem`/`NAME.key`, or both in one `NAME.pem`), and subdirectories with
`tls.crt` and `tls.key`, as Kubernetes mounts a Secret of type kubernetes.io/tls. Names that begin with a dot are not looked
at: Kubernetes keeps its own there.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from nexus_gateway.edge.tls.policy import SERVER_ALPN, harden

MAX_FILE_BYTES = 2**20
"""A chain of certificates has some kilobytes; what is larger is not one."""

Stamp = tuple[str, tuple[tuple[int, int, int], ...]]
"""Name of a pair and (inode, mtime_ns, size) of its files."""


class PairInvalid(Exception):
    """A pair cannot be used. what, fix: sentences for the operator of the gateway."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate (chain) and its key are. name: what people call it: the files' stem, or the subdirectory."""

    name: str
    certificate: Path
    key: Path

    def stamp(self) -> Stamp:
        """Return what changes when a file does. Raises OSError."""
        found = [path.stat() for path in dict.fromkeys((self.certificate, self.key))]
        return self.name, tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair that can be used. names: DNS names and IP addresses of its subjectAltName, lower-case; `*.` begins a wildcard.

    digest: of both files' bytes. not_after_utc: the end of its validity.
    """

    name: str
    names: tuple[str, ...]
    not_after_utc: datetime
    digest: bytes
    context: ssl.SSLContext


def find_pairs(directory: Path) -> tuple[Pair, ...]:
    """Return the pairs of a directory, in the order of their names; a missing half is named all the same. Raises OSError."""
    pairs: dict[str, Pair] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if (path / "tls.crt").exists() or (path / "tls.key").exists():
                pairs[path.name] = Pair(path.name, path / "tls.crt", path / "tls.key")
        elif path.suffix in (".crt", ".pem"):
            key = path.with_suffix(".key")
            if path.suffix == ".pem" and not key.exists():
                key = path
            pairs.setdefault(path.stem, Pair(path.stem, path, key))
        elif path.suffix == ".key" and not any(path.with_suffix(each).exists() for each in (".crt", ".pem")):
            pairs[path.stem] = Pair(path.stem, path.with_suffix(".crt"), path)
    return tuple(pairs[name] for name in sorted(pairs))


def read_digest(pair: Pair) -> bytes:
    """Return the digest of a pair's bytes. Raises `PairInvalid`."""
    digest = hashlib.blake2b(digest_size=32)
    for path in (pair.certificate, pair.key):
        content = _read(path)
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.digest()


def load(pair: Pair) -> Certificate:
    """Return the certificate of a pair, ready to serve. Raises `PairInvalid`."""
    digest = read_digest(pair)
    try:
        leaf = x509.load_pem_x509_certificates(_read(pair.certificate))[0]
    except ValueError as error:
        raise PairInvalid(
            f"{pair.certificate} holds no certificate in PEM.",
            "Write the certificate first, then its intermediates, each between BEGIN CERTIFICATE and END CERTIFICATE.",
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context, SERVER_ALPN)
    try:
        context.load_cert_chain(pair.certificate, pair.key, password=_no_password)
    except _Encrypted as error:
        raise PairInvalid(
            f"The key in {pair.key} is encrypted.", "Write it without a passphrase: `openssl pkey -in KEY -out KEY`."
        ) from error
    except (ssl.SSLError, OSError) as error:
        raise PairInvalid(
            f"{pair.certificate} and {pair.key} cannot be used together: {_words(error)}.",
            "Write the private key (PEM) that belongs to the first certificate of the file.",
        ) from error
    if read_digest(pair) != digest:
        raise PairInvalid(f"{pair.certificate} changed while it was read.", "It is read again in a second.")
    return Certificate(pair.name, names_of(leaf), leaf.not_valid_after_utc, digest, context)


class _Encrypted(Exception):
    """The key asks for a passphrase."""


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, and the gateway would stand still.
    raise _Encrypted


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PairInvalid(
            f"{path} cannot be read: {error.strerror or error}.",
            "Write both halves of the pair, readable by the gateway's user.",
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise PairInvalid(
            f"{path} has more than {MAX_FILE_BYTES} bytes.", "Write one certificate with its chain, no bundle."
        )
    return content


def names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """Return what the certificate is for. The common name counts for nothing, as with every client (RFC 9525, 2)."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = [name.lower().rstrip(".") for name in found.get_values_for_type(x509.DNSName)]
    names.extend(str(address) for address in found.get_values_for_type(x509.IPAddress))
    return tuple(dict.fromkeys(names))


def _words(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error.strerror or error)
