"""Certificates of a Snapshot, with their private keys opened: in memory alone, and only in the process that shows them."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from nexus_core.snapshot import Certificate

if TYPE_CHECKING:
    from nexus_core.certificates.sealing import Opener, Sealer

log = logging.getLogger("nexus.gateway.tls")


class KeyUnusable(Exception):
    """A certificate of the Snapshot cannot be used. The text says which, why, and how to fix it; never what is in the key."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A certificate with its key. names: as in `files.Certificate`. kind: `rsa`, or `ec` for every other kind of key.

    key: PEM, in clear.
    """

    id: str
    chain: str
    key: bytes
    names: tuple[str, ...]
    kind: str
    not_after_utc: datetime

    def __repr__(self) -> str:
        return f"Opened({self.id!r}, [redacted])"


class Keyring:
    """Opens certificates, each once as long as it stays in use."""

    def __init__(self, opener: Callable[[], Opener | Sealer]) -> None:
        """opener: asked for when there is something to open."""
        self._opener = opener
        self._opened: dict[Certificate, Opened] = {}

    def open(self, certificate: Certificate) -> Opened:
        """Return the certificate with its key. Blocks for about a millisecond when it is new. Raises `KeyUnusable`."""
        found = self._opened.get(certificate)
        if found is None:
            found = self._opened[certificate] = self._reopened(certificate)
        return found

    def keep(self, used: Sequence[Certificate]) -> None:
        """Forget all others: a key that is used no more has no place in memory."""
        wanted = set(used)
        self._opened = {certificate: opened for certificate, opened in self._opened.items() if certificate in wanted}

    def _reopened(self, certificate: Certificate) -> Opened:
        try:
            return self._open(certificate)
        except KeyUnusable as error:
            # Sealed with a newer key, which this process does not have: it serves on until one takes its place that does. A chain has
            # but one private key that belongs to it.
            for known, opened in self._opened.items():
                if (known.id, known.chain) == (certificate.id, certificate.chain):
                    log.warning("%s is shown with the private key that it had before: %s", certificate.id, error)
                    return opened
            raise

    def _open(self, certificate: Certificate) -> Opened:
        # Here: a gateway that opens nothing does without these libraries, which take 7 MB.
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import rsa
        from nexus_core.certificates import private
        from nexus_core.certificates.sealing import SealError

        from nexus_gateway.edge.tls.files import names_of

        try:
            key = self._opener().unseal(certificate)
        except SealError as error:
            raise KeyUnusable(str(error)) from error
        try:
            leaf = x509.load_pem_x509_certificates(certificate.chain.encode())[0]
        except ValueError as error:
            raise KeyUnusable(f"{certificate.id} holds no certificate in PEM. Write it into tls.crt.") from error
        try:
            loaded = private.load(key)
        except (ValueError, TypeError) as error:
            raise KeyUnusable(
                f"The private key of {certificate.id} cannot be read. Write it into tls.key as PEM, without a passphrase."
            ) from error
        kind = "rsa" if isinstance(loaded, rsa.RSAPrivateKey) else "ec"
        return Opened(certificate.id, certificate.chain, key, names_of(leaf), kind, leaf.not_valid_after_utc)


def load_into(context: ssl.SSLContext, opened: Opened) -> None:
    """Have a context show the certificate. Raises `KeyUnusable`."""
    try:
        # `ssl` reads certificates from files alone; this one has no place on any disk.
        with _in_memory(opened.chain.encode()) as chain, _in_memory(opened.key) as key:
            context.load_cert_chain(chain, key)
    except (ssl.SSLError, OSError) as error:
        words = (getattr(error, "reason", None) or str(error)).lower().replace("_", " ")
        raise KeyUnusable(
            f"Certificate and private key of {opened.id} cannot be used together: {words}. "
            "Write the key that belongs to the first certificate of tls.crt."
        ) from error


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give a path under which the content can be read by this process."""
    try:
        descriptor = os.memfd_create("nexus-tls", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        with tempfile.NamedTemporaryFile(prefix="nexus-tls-") as file:  # readable by its owner alone
            file.write(content)
            file.flush()
            yield file.name
        return
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
