"""The signed debug header: who may ask what happened to a request, and the answer's form. Pure.

A client asks with `x-nexus-debug: <expires>.<nonce>.<signature>`; the gateway answers with `x-nexus-explain` (JSON,
base64url without padding) and `x-nexus-explain-signature`. Both signatures are HMAC-SHA-256 (RFC 2104) in hex under one shared
key, told apart by their first line. The token holds for one method, host and path, and for a minute at most; the
answer's signature covers the token's nonce, so that it cannot be taken for the answer to another request.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

import msgspec

ASKS = "x-nexus-debug"
ANSWERS = "x-nexus-explain"
SIGNS = "x-nexus-explain-signature"

MAX_AHEAD_S = 60.0
"""A token may expire at most so far ahead: one that leaks is soon worth nothing."""

MAX_ANSWER_BYTES = 4096
"""Of the encoded answer. Common clients and proxies take 8 KiB of response headers in all."""

_TOKEN = re.compile(rb"([0-9]{1,12})\.([A-Za-z0-9_-]{8,64})\.([0-9a-f]{64})")
_SHEDDABLE = ("others", "circuits", "plugins", "filters", "attempts", "listeners", "reason", "why")
"""What an answer that is too long leaves out, in this order."""


def make_token(key: bytes, method: str, host: str, path: str, expires_unix: int, nonce: str) -> str:
    """Return a token. method: upper-case. host: lower-case, without port. path: normal form. nonce: 8 to 64 of A-Z a-z 0-9 - _."""
    return f"{expires_unix}.{nonce}.{_sign(key, expires_unix, nonce, method, host, path)}"


def verify(token: bytes, key: bytes, method: str, host: str, path: str, now_unix: float) -> str | None:
    """Return the nonce of a token that holds for this request now; None for any other. Takes as long for wrong signatures as
    for right ones. now_unix: seconds, wall clock."""
    found = _TOKEN.fullmatch(token)
    if found is None or not key:
        return None
    expires, nonce, signature = int(found[1]), found[2].decode(), found[3].decode()
    good = hmac.compare_digest(signature, _sign(key, expires, nonce, method, host, path))
    if not good or not now_unix <= expires <= now_unix + MAX_AHEAD_S:
        return None
    return nonce


def read_nonce(token: bytes) -> str:
    """Return the nonce of a token that was verified before."""
    return token.split(b".", 2)[1].decode("latin-1")


def _sign(key: bytes, expires_unix: int, nonce: str, method: str, host: str, path: str) -> str:
    text = f"nexus-debug-1\n{expires_unix}\n{nonce}\n{method}\n{host}\n{path}"
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def build(facts: Mapping[str, Any]) -> str:
    """Return the answer's value: at most `MAX_ANSWER_BYTES`; what finds no room is left out, and `cut` says so.

    facts: plain values, without secrets; lists are cut at their end, the first attempts at their beginning.
    """
    kept = dict(facts)
    for name in (None, *_SHEDDABLE):
        if name is not None:
            value = kept.get(name)
            if not value:
                continue
            # The last attempt is the one that counts; the nearest losers come first.
            kept[name] = value[-1:] if name == "attempts" else value[:1] if isinstance(value, list) else ""
            kept["cut"] = True
        encoded = _encode(kept)
        if len(encoded) <= MAX_ANSWER_BYTES:
            return encoded
    return _encode({"cut": True, "status": kept.get("status", 0)})


def sign_answer(key: bytes, nonce: str, answer: str) -> str:
    """Return the signature of an answer to the token with this nonce."""
    return hmac.digest(key, f"nexus-explain-1\n{nonce}\n{answer}".encode(), "sha256").hex()


def read_answer(key: bytes, nonce: str, answer: str, signature: str) -> dict[str, Any] | None:
    """Return what an answer says; None when its signature is not of this key and nonce, or it is no JSON object."""
    if not signature.isascii() or not hmac.compare_digest(signature, sign_answer(key, nonce, answer)):
        return None
    try:
        found = msgspec.json.decode(urlsafe_b64decode(answer + "=" * (-len(answer) % 4)))
    except (binascii.Error, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _encode(facts: Mapping[str, Any]) -> str:
    return urlsafe_b64encode(msgspec.json.encode(facts)).rstrip(b"=").decode()
