"""TLS for listeners that ask clients for a certificate and let them in whatever comes (the Gateway API's AllowInsecureFallback).

The standard library's `ssl` ends the handshake over a certificate that does not verify, whether it is required or optional, and
has no callback that says otherwise. pyOpenSSL has; so these listeners, and no others, are served by it. `LenientContext` stands
in for an `ssl.SSLContext` where `nexus_wire.tls` begins a connection: it brings buffers and a TLS object with the same methods.

Sessions are not resumed: each connection shows its client's certificate anew.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Sequence

from cryptography import x509
from nexus_core.certificates import private
from nexus_core.snapshot import ListenerTls
from OpenSSL import SSL, crypto

from nexus_gateway.edge.tls.keyring import KeyUnusable, Opened
from nexus_gateway.edge.tls.policy import TLS12_CIPHERS

_HEADER = 5
_READ = 2**16


class LenientContext:
    """See the module."""

    def __init__(self, opened: Sequence[Opened], tls: ListenerTls, alpn: Sequence[str]) -> None:
        """Raises `KeyUnusable` for a certificate, ValueError for authorities that cannot be used."""
        self._context = context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION if tls.minimum == "1.3" else SSL.TLS1_2_VERSION)
        context.set_cipher_list(TLS12_CIPHERS.encode())
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # As `ssl` does: an idle connection keeps 23 KB instead of 50.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        for each in opened:
            _show(context, each)
        store = context.get_cert_store()
        assert store is not None
        for authority in x509.load_pem_x509_certificates(tls.client_authorities.encode()):
            store.add_cert(crypto.X509.from_cryptography(authority))
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if alpn:
            ours = [protocol.encode() for protocol in alpn]
            context.set_alpn_select_callback(
                lambda _, theirs: next((each for each in ours if each in theirs), SSL.NO_OVERLAPPING_PROTOCOLS)
            )

    def begin(self) -> tuple[Incoming, Outgoing, LenientObject]:
        """Return the buffers and the TLS object of a new connection."""
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        incoming, outgoing = Incoming(), Outgoing()
        return incoming, outgoing, LenientObject(connection, incoming, outgoing)


def _show(context: SSL.Context, opened: Opened) -> None:
    try:
        first, *rest = x509.load_pem_x509_certificates(opened.chain.encode())
        key = private.load(opened.key)
        context.use_certificate(first)
        for each in rest:
            context.add_extra_chain_cert(each)
        context.use_privatekey(key)  # type: ignore[arg-type]  # OpenSSL says of which kinds it takes none
        context.check_privatekey()
    except (SSL.Error, ValueError, TypeError) as error:
        raise KeyUnusable(
            f"Certificate and private key of {opened.id} cannot be used together. "
            "Write the key that belongs to the first certificate of tls.crt."
        ) from error


class Incoming:
    """Ciphertext that came: whole records, as `TlsTransport` hands them over. pending: bytes that were not taken yet."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self.pending = 0

    def write(self, data: bytes | memoryview) -> int:
        """Put it in."""
        data = bytes(data)
        at = 0
        while at < len(data):
            # What is no record goes in as it is: OpenSSL refuses it, and says how.
            size = _HEADER + (data[at + 3] << 8 | data[at + 4]) if len(data) - at > _HEADER else len(data) - at
            self._records.append(data[at : at + size])
            at += size
        self.pending += len(data)
        return len(data)

    def take(self) -> bytes:
        """Return the next record, empty for none."""
        if not self._records:
            return b""
        record = self._records.popleft()
        self.pending -= len(record)
        return record


class Outgoing:
    """Ciphertext to be sent. pending: its bytes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.pending = 0

    def put(self, data: bytes) -> None:
        """Put it in."""
        self._pieces.append(data)
        self.pending += len(data)

    def read(self) -> bytes:
        """Return all of it."""
        found = b"".join(self._pieces)
        self._pieces.clear()
        self.pending = 0
        return found


class LenientObject:
    """The TLS of one connection, with the methods of an `ssl.SSLObject` that `TlsTransport` calls, and its exceptions."""

    def __init__(self, connection: SSL.Connection, incoming: Incoming, outgoing: Outgoing) -> None:
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing

    def do_handshake(self) -> None:
        """Take it as far as what has come takes it. Raises `ssl.SSLWantReadError`, `ssl.SSLError`."""
        while True:
            try:
                self._connection.do_handshake()
                return
            except SSL.WantReadError:
                self._more()
            except SSL.Error as error:
                raise _error(error) from error
            finally:
                self._flush()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of what the client sent, empty at its end. Raises `ssl.SSLWantReadError`, `ssl.SSLError`."""
        while True:
            try:
                return self._connection.recv(size)
            except SSL.WantReadError:
                self._more()
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                raise _error(error) from error
            finally:
                self._flush()

    def write(self, data: bytes | memoryview) -> int:
        """Encrypt. Raises `ssl.SSLError`."""
        try:
            return self._connection.send(bytes(data)) if data else 0
        except SSL.Error as error:
            raise _error(error) from error
        finally:
            self._flush()

    def unwrap(self) -> None:
        """Say goodbye. Raises `ssl.SSLError`."""
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            raise _error(error) from error
        finally:
            self._flush()

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both sides speak, None without ALPN."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None

    def _more(self) -> None:
        record = self._incoming.take()
        if not record:
            raise ssl.SSLWantReadError
        self._connection.bio_write(record)

    def _flush(self) -> None:
        while True:
            try:
                self._outgoing.put(self._connection.bio_read(_READ))
            except SSL.WantReadError:
                return


def _error(error: SSL.Error) -> ssl.SSLError:
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    words = " ".join(str(row[-1]) for row in reasons) or type(error).__name__
    found = ssl.SSLError(1, words)
    found.reason = words  # which `ssl` sets on its own alone
    return found
