"""What every TLS context of ours has in common."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

ALPN = ("http/1.1",)
SERVER_ALPN = ("h2", "http/1.1")
"""What listeners of HTTP offer, in the order they prefer."""
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secrecy and authenticated encryption only: the "intermediate" list of Mozilla's server side TLS guide without its
DHE suites, which cost a multiple and which no client of the last ten years needs. TLS 1.3's suites are all good."""


def harden(context: ssl.SSLContext, alpn: Sequence[str] = ALPN) -> None:
    """Allow TLS 1.2 with modern ciphers and TLS 1.3, offer HTTP (or `alpn`), refuse renegotiation and compression."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.set_alpn_protocols(list(alpn))
    # Renegotiation lets a client make the server work for nothing; compression leaks secrets (CRIME).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
