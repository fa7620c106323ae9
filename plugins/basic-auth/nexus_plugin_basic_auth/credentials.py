"""The Authorization header of the Basic scheme. Pure. Source: RFC 7617; RFC 9110, 11.4."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from dataclasses import dataclass, field

_LONGEST = 2048
"""Characters of credentials that are read."""
_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who says they are whom. password: UTF-8, and no part of what is printed."""

    user: str
    password: bytes = field(repr=False)


def parse(value: str) -> Credentials | None:
    """Return the credentials in a header's value, None for anything else.

    The charset is UTF-8, as the challenge says; both parts are brought to NFC, so that it does not matter how a keyboard composes `ü`.
    """
    if len(value) > _LONGEST:
        return None
    match = _BASIC.fullmatch(value)
    if match is None:
        return None
    try:
        text = base64.b64decode(match[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = text.partition(":")
    # RFC 7617, 2: neither may hold control characters.
    if not colon or any(unicodedata.category(char) == "Cc" for char in text):
        return None
    return Credentials(unicodedata.normalize("NFC", user), unicodedata.normalize("NFC", password).encode())
