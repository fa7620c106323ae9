"""Signed tokens that are bound to a session. Knows nothing of requests.

A token is `<issued>.<nonce>.<mac>`: seconds since 1970 in hex, 16 random bytes and an HMAC-SHA-256, both in base64url. The session is
in the MAC and not in the token: who plants a cookie of their own (from a subdomain, or over plain HTTP) has none for this session.
Source: OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Signed Double-Submit Cookie".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

_TOKEN = re.compile(r"([0-9a-f]{1,16})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")
_SKEW_S = 60
"""How far in the future a token may have been issued: by another gateway, whose clock is ahead."""


class Tokens:
    """Makes and checks tokens. keys: the first signs, all of them verify. lifetime_s: after which a token is worth nothing."""

    __slots__ = ("_keys", "_lifetime_s")

    def __init__(self, keys: Sequence[str], lifetime_s: int) -> None:
        # A key of its own for this use: the same secret may sign other things elsewhere.
        self._keys = tuple(hashlib.sha256(b"nexus csrf token\0" + key.encode()).digest() for key in keys)
        self._lifetime_s = lifetime_s

    def issue(self, session: str, now: float) -> str:
        """Return a new token for a session, empty for none. now: seconds since 1970."""
        nonce = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        issued = f"{int(now):x}"
        return f"{issued}.{nonce}.{_mac(self._keys[0], issued, nonce, session)}"

    def age(self, token: str, session: str, now: float) -> float | None:
        """Return a token's age in seconds, None for one that is forged, expired, or of another session."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        issued, nonce, mac = match.groups()
        if not any(hmac.compare_digest(mac, _mac(key, issued, nonce, session)) for key in self._keys):
            return None
        age = now - int(issued, 16)
        return max(age, 0.0) if -_SKEW_S <= age <= self._lifetime_s else None


def _mac(key: bytes, issued: str, nonce: str, session: str) -> str:
    # Lengths first: no two different triples are the same text.
    text = f"{len(issued)}.{issued}{len(nonce)}.{nonce}{session}"
    digest = hmac.digest(key, text.encode("utf-8", "surrogateescape"), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
