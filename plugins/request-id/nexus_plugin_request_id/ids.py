"""New ids, from the clock and the randomness handed in."""

from __future__ import annotations

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def uuid4(random_bytes: bytes) -> str:
    """Return a version 4 UUID. random_bytes: 16. Source: RFC 9562 section 5.4."""
    value = bytearray(random_bytes)
    value[6] = value[6] & 0x0F | 0x40
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def ulid(unix_ms: int, random_bytes: bytes) -> str:
    """Return a ULID: 48 bits of Unix milliseconds, 80 of chance, in Crockford's base 32. random_bytes: 10.

    Source: the ULID specification.
    """
    value = (unix_ms & (1 << 48) - 1) << 80 | int.from_bytes(random_bytes, "big")
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
